"""The three parts of an evaluation in one process: what each is measured on, and what is kept."""

import copy
import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from conftest import config
from small_models import made
from tokenizers.processors import TemplateProcessing

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation import domain, domain_drift, drift, evaluate
from talr_cli.evaluation.general.tasks import load_tasks
from talr_cli.scorers.text import ExactMatch

ROWS = [
    Example(f"q{n}", ({"role": "user", "content": f"Is {n} odd?"},), "yes", {"answer": "yes"})
    for n in range(3)
]
PASSAGE = "The river rises in the hills."
ASKED = ("suite.tasks=[mini_python]", "suite.limit=2", "domain.max_new_tokens=3", "domain.limit=7")


@pytest.fixture(scope="module")
def base(tiny_source, tiny_config):
    return evaluate.load_to_score(tiny_source, tiny_config, "cpu")


@pytest.fixture
def scored(base, renderer, tiny_source, tiny_config, tmp_path, monkeypatch):
    """A function: the results, and {name: samples}, of the base or of a model that is to be it."""
    monkeypatch.setattr(domain_drift, "MOST_TOKENS", 4)
    monkeypatch.setattr(drift, "general_passages", lambda: [PASSAGE])

    def score(*overrides, model=None, rows=ROWS, scorer=None):
        asked = config("eval", *ASKED, *overrides)
        own = tiny_source if model is None else replace(tiny_source, fingerprint="tuned")
        results = evaluate.evaluate(
            base if model is None else model,
            renderer,
            source=own,
            base=tiny_source,
            model_config=tiny_config,
            suite=asked.suite,
            tasks=load_tasks(asked.suite),
            domain=asked.domain,
            rows=rows,
            scorer=scorer,
            samples=tmp_path / "samples",
            scores=tmp_path / "scores",
        )
        samples = {
            file.stem: [json.loads(line) for line in file.read_text().splitlines()]
            for file in (tmp_path / "samples").iterdir()
        }
        return results, samples

    return score


def log_probs(model, ids):
    """[tokens, V] in float64."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def test_each_part_is_measured_on_what_it_names(scored, base, renderer, caplog, monkeypatch):
    """Drift on the suite's prompts as the model sees them, and along the base's answers."""
    results, samples = scored(scorer=ExactMatch())
    assert sorted(samples) == ["domain", "general-mini_python"]
    assert [one["id"] for one in samples["domain"]] == ["q0", "q1", "q2"]
    of_domain = results["domain"]
    assert (of_domain["n"], of_domain["limit"], of_domain["max_new_tokens"]) == (3, 7, 3)
    of_suite = results["general"]
    said = {"suite": "mini", "limit": 2, "n": 2, "backend": "hf", "missing": {}, "processes": 1}
    said |= {
        "formula": "mean of tasks",
        "harness": {"name": "lm-eval", "version": version("lm-eval")},
    }
    assert {key: of_suite[key] for key in said} == said
    assert of_suite["tasks"]["mini_python"]["backend"] == "hf"
    assert of_domain["processes"] == 1
    assert "evaluation: 7/7" in caplog.text  # 2 of the suite, 3 of the domain, 2 prompts of drift
    of_base = results["drift"]
    assert of_base["kl_from_base"]["score"] == of_base["domain_kl_from_base"]["score"] == 0
    assert of_base["domain_kl_from_base"]["n"] == 3

    torch.manual_seed(0)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    loads, load = [], evaluate.load_model
    monkeypatch.setattr(evaluate, "load_model", lambda *given: loads.append(1) or load(*given))
    found = scored(model=tuned, scorer=ExactMatch())[0]["drift"]
    ids = renderer.tokenizer(PASSAGE).input_ids
    picked = log_probs(tuned, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])
    assert found["cross_entropy"]["score"] == pytest.approx(-float(picked.mean()), rel=1e-5)
    asked = {one["doc_id"]: one["doc"]["question"] for one in samples["general-mini_python"]}
    prompts = [renderer.prompt_ids([{"role": "user", "content": one}]) for one in asked.values()]
    pairs = [(log_probs(base, ids), log_probs(tuned, ids)) for ids in prompts]
    total = sum(float((p.exp() * (p - q)).sum()) for p, q in pairs)
    tokens = sum(map(len, prompts))
    assert found["kl_from_base"]["score"] == pytest.approx(total / tokens, rel=1e-3)
    assert (found["kl_from_base"]["tokens"], found["kl_from_base"]["n"]) == (tokens, 2)
    along = found["domain_kl_from_base"]
    assert along["score"] > 0
    assert along["tokens"] == of_base["domain_kl_from_base"]["tokens"] <= 3 * 3
    assert len(loads) == 2  # for its states on the prompts of either kind; its answers were known


def test_what_is_not_asked_for_is_not_measured(scored, caplog, monkeypatch):
    results, samples = scored("suite.drift=false")
    assert "evaluation: 2/2" in caplog.text
    assert results["domain"] is results["drift"] is None
    assert sorted(samples) == ["general-mini_python"]
    results, _ = scored("domain.max_new_tokens=null", rows=[], scorer=ExactMatch())
    assert results["domain"] is None
    assert results["drift"].keys() == {"cross_entropy", "kl_from_base"}
    monkeypatch.setattr(domain, "FEWEST_NEW_TOKENS", 1)
    results, _ = scored(
        "domain.max_new_tokens=null", "suite.drift=false", rows=ROWS[:1], scorer=ExactMatch()
    )
    assert results["domain"]["max_new_tokens"] == 4  # twice that of "yes" and its end


def test_prompts_of_drift_are_read_as_by_the_harness(tokenizer):
    """A template has its special tokens; a plain text gets them. The end of a prompt is kept.

    The sentences of BLiMP are continuations of a prompt without text.
    """
    own = copy.deepcopy(tokenizer)
    begin = own.convert_tokens_to_ids("<|im_start|>")
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    text = "one two three four"
    ids = tokenizer(text).input_ids
    asked = [(text, True), (text, False)]
    found = evaluate._drift_prompts(asked, Renderer(own, {}), None)
    assert found == [ids, [begin, *ids]]
    assert evaluate._drift_prompts(asked, Renderer(own, {}), 3) == [ids[-3:]] * 2
    assert evaluate._drift_prompts(asked, Renderer(own, {}), len(ids) + 1) == found
    own = copy.deepcopy(tokenizer)
    for of_harness in (own.bos_token_id, own.eos_token_id):
        assert evaluate._drift_prompts([("", False)], Renderer(own, {}), None) == [[of_harness]]
        own.bos_token = None


@pytest.mark.parametrize(
    ("dtype", "is_fast", "expected"),
    [
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float16, True, torch.float32),
        (torch.float32, False, torch.float32),
    ],
)
def test_a_model_is_scored_in_the_dtype_of_its_checkpoint_where_that_is_fast(
    dtype, is_fast, expected, monkeypatch
):
    monkeypatch.setattr(evaluate, "bf16_is_fast", lambda device: is_fast)
    model = made("qwen3_moe").to(dtype).train()
    model.config.output_router_logits = True
    weights = model.get_output_embeddings().weight.detach().clone()
    found = evaluate.prepare_to_score(model)
    assert found.dtype == expected
    assert torch.equal(found.get_output_embeddings().weight, weights.to(expected))
    assert not found.training
    assert not found.config.output_router_logits
