"""The suite against lm-evaluation-harness as its own users call it: prompts, answers, scores.

The model begins every text with a token of its own, is given few tokens, and pads with the token
that also ends a text and stands for unknown ones.
"""

import lm_eval
import pytest
import torch
from conftest import config, jsonl
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.general.answering import Answering
from talr_cli.evaluation.general.suite import evaluate_general

POSITIONS = 128
MOST = 96  # tokens of a prompt and its answer, by suite.max_length
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ["iron oak", "naïve 7", "a river, two lamps", "42", "Ärger"]
DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/test.jsonl, train: FOLDER/train.jsonl}}
test_split: test
fewshot_split: train
doc_to_text: "Q: {{question}}\\nA:"
metadata: {version: 1.0}
"""
TASKS = {
    "choosing": """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
description: "Choose. "
num_fewshot: 2
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
  - {metric: acc_mutual_info}
  - {metric: brier_score}
""",
    "going_on": """
output_type: loglikelihood
doc_to_target: " {{choices[0]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
""",
    "writing": """
output_type: generate_until
doc_to_target: "{{answer}}"
gen_prefix: "It is"
num_fewshot: 1
fewshot_config: {sampler: first_n}
generation_kwargs: {until: ["zq", "e"], max_gen_toks: 24, do_sample: false}
filter_list:
  - {name: first, filter: [{function: regex, regex_pattern: "([0-9a-z])"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
""",
    "searching": """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["zq", "e"], max_gen_toks: 12, do_sample: false, num_beams: 3}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(scope="module")
def tokenizer():
    letters = ["<s>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    one = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<end>")
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", **one)
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A model, and a folder of tasks of rows of which some are longer than its positions."""
    found = tmp_path_factory.mktemp("judged")
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(settings)
    with torch.no_grad():  # its answers differ; as it is made it repeats one token
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(found / "model")
    tokenizer.save_pretrained(found / "model")
    for name, count in (("test", 7), ("train", 4)):
        rows = [
            {
                "question": " ".join([WORDS[n % 5]] * (1 + 13 * (n % 3 == 1))),
                "choices": [WORDS[(n + more) % 5] for more in (1, 2, 4)],
                "answer": n % 3,
            }
            for n in range(count)
        ]
        (found / f"{name}.jsonl").write_text(jsonl(rows))
    for name, text in TASKS.items():
        data = DATA.replace("FOLDER", str(found))
        (found / f"{name}.yaml").write_text(f"task: {name}{data}{text}")
    return found


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_prompts_answers_and_scores_are_those_of_the_harness(chat, folder, tokenizer):
    theirs = lm_eval.simple_evaluate(
        model=HFLM(
            str(folder / "model"), device="cpu", dtype="float32", batch_size=1, max_length=MOST
        ),
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=1000,
        log_samples=True,
    )
    suite = config(
        "eval",
        f"suite.task_dir={folder}",
        f"suite.tasks=[{','.join(TASKS)}]",
        "+suite.metrics.choosing=acc_norm",
        "+suite.metrics.going_on=acc",
        "+suite.metrics.writing='exact_match,first'",
        "+suite.metrics.searching=exact_match",
        f"suite.chat_template={str(chat).lower()}",
        f"suite.max_length={MOST}",
        "suite.batch_size=4",
    ).suite
    model = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    ours = evaluate_general(model, Renderer(tokenizer, {}), suite)
    for name in TASKS:
        found, expected = ours.results["tasks"][name], theirs["results"][name]
        scores = {key: value for key, value in expected.items() if "," in key}
        values = {key: value for key, value in scores.items() if "_stderr" not in key}
        assert {key: found["all"][key] for key in values} == pytest.approx(values, rel=1e-4)
        metric, _, filter_name = found["metric"].partition(",")
        assert found["stderr"] == pytest.approx(scores[f"{metric}_stderr,{filter_name}"])
        for sample, other in zip(ours.samples[name], theirs["samples"][name], strict=True):
            assert sample["doc_id"] == other["doc_id"]
            assert [one[0] for one in sample["arguments"]] == [one[0] for one in other["arguments"]]
            answers = zip(sample["resps"], other["resps"], strict=True)
            for (answer,), (other_answer,) in answers:
                if name in ("writing", "searching"):
                    assert answer == other_answer
                else:
                    assert answer == [pytest.approx(other_answer[0], abs=1e-3), other_answer[1]]
    assert ours.results["tasks"]["writing"]["prompts_cut"] > 0


def test_stop_strings_are_looked_for_where_the_end_token_is_also_the_unknown_one(folder, tokenizer):
    """What follows it would be thrown away: only the end's own text needs no looking for."""
    model = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    asked = []

    def generate(requests):
        asked.extend(requests)
        return [([], False)] * len(requests)

    answering = Answering(model, Renderer(tokenizer, {}), 2, generate)
    settings = {"until": ["zq", "\n\n"], "max_gen_toks": 8}
    instance = lm_eval.api.instance.Instance("generate_until", {}, ("Q: oak", settings), 0)
    answering.generate_until([instance], disable_tqdm=True)
    assert [one.stop for one in asked] == [("zq", "\n\n")]
