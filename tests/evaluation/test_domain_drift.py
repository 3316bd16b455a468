"""KL from the base along its own answers: the tokens it is taken over, and what is kept of them."""

import copy
import gzip
import json
import os
import statistics
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from small_models import made, token_ids

from talr_cli.data.base import Example
from talr_cli.evaluation import domain_drift, evaluate, memory
from talr_cli.evaluation.domain_drift import prompts_with_base_answers
from talr_cli.evaluation.drift import CachedStates, cross_entropy, kl_from_base
from talr_cli.evaluation.generation import sampler
from talr_cli.models import loading

EXAMPLES = [
    Example(str(number), ({"role": "user", "content": f"What is {number} + {number}?"},), "")
    for number in range(5)
]


@pytest.fixture(scope="module")
def base(tiny_source, tiny_config):
    return loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()


@pytest.fixture
def tuned(base):
    torch.manual_seed(0)
    other = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return other


@pytest.fixture
def answered(base, renderer, tmp_path, monkeypatch):
    """A function: the answers as they are made or found, and how often the base was loaded."""
    monkeypatch.setattr(domain_drift, "MOST_TOKENS", 7)
    loads = []

    def ask(work):
        loads.append(1)
        return work(base)

    def answer(examples=EXAMPLES, fingerprint="base", budget=1024):
        settings = base.config.to_dict()
        folder = tmp_path / "scores"
        return prompts_with_base_answers(
            examples, renderer, settings, budget, fingerprint, folder, ask
        ), len(loads)

    return answer


def plain_kl(base, tuned, sequences, starts):
    """Mean over predictions in float64, by whole logits."""
    total, count = 0.0, 0
    for ids, start in zip(sequences, starts, strict=True):
        with torch.no_grad():
            p, q = (one(torch.tensor([ids])).logits[0, start:].double() for one in (base, tuned))
        total += float(
            torch.nn.functional.kl_div(
                q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum"
            )
        )
        count += len(ids) - start
    return total / count


def test_domain_kl_is_over_the_predictions_that_make_the_answers(
    base, tuned, answered, renderer, tiny_source, tmp_path
):
    (sequences, starts), _ = answered()
    for example, ids, start in zip(EXAMPLES, sequences, starts, strict=True):
        prompt = renderer.prompt_ids(example.messages)
        assert ids[: start + 1] == prompt
        # A random model finds no end: 7 tokens, of which the last one is predicted and not read.
        assert len(ids) == len(prompt) + 6
    loads = []
    states = CachedStates(
        tmp_path / "states.safetensors",
        tiny_source.directory,
        lambda work: loads.append(1) or work(base),
    )
    for _ in range(2):  # computed, then found
        measured = kl_from_base(tuned, states, sequences, starts)
        assert len(loads) == 1
        assert measured["score"] == pytest.approx(
            plain_kl(base, tuned, sequences, starts), rel=1e-4
        )
        assert (measured["tokens"], measured["n"]) == (7 * 5, 5)
    assert len(states._read(35, base)) == 35  # of the prompts nothing is kept
    itself = kl_from_base(base, None, sequences, starts)
    assert (itself["score"], itself["tokens"]) == (0.0, 35)


def test_cross_entropy_is_the_mean_over_the_tokens_of_all_passages(base, renderer):
    """Of unlike lengths; the error is that of a ratio of sums over passages."""
    passages = ["A cat.", "No " * 300, "Two and three make five, as everybody knows."]
    sums, counts = [], []
    for passage in passages:
        ids = torch.tensor(renderer.tokenizer(passage).input_ids)
        with torch.no_grad():
            log_probs = base(ids[None]).logits[0, :-1].double().log_softmax(-1)
        sums.append(-log_probs.gather(1, ids[1:, None]).sum().item())
        counts.append(len(ids) - 1)
    found = cross_entropy(base, renderer.tokenizer, passages)
    mean = sum(sums) / sum(counts)
    residuals = [total - mean * count for total, count in zip(sums, counts, strict=True)]
    error = statistics.stdev(residuals) * 3**0.5 / sum(counts)
    assert found == pytest.approx(
        {"score": mean, "stderr": error, "n": 3, "tokens": sum(counts)}, rel=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("granite", torch.float32),
        ("gemma2", torch.float32),
        ("phi", torch.float32),
        ("llama", torch.bfloat16),
    ],
)
def test_kl_from_cached_states_equals_that_from_the_model(kind, dtype, tmp_path):
    """Logits that are scaled, capped, have a bias; a model saved in fewer bits than its base."""
    base = made(kind)
    with torch.no_grad():
        base.get_output_embeddings().weight.mul_(20)
        # The embedding, of the head's shape, lies in an earlier file than the head.
        base.save_pretrained(tmp_path / "base", max_shard_size="8KB")
        tuned = copy.deepcopy(base).to(dtype)
        tuned.get_output_embeddings().weight.mul_(-1)
    prompts, loads = token_ids(length=12).tolist(), []

    def ask(work):
        loads.append(1)
        return work(base)

    states = CachedStates(tmp_path / "states.safetensors", tmp_path / "base", ask)
    expected = plain_kl(base, tuned, prompts, [0, 0])
    assert expected > 0.1
    for _ in range(2):  # computed, then found
        measured = kl_from_base(tuned, states, prompts)["score"]
        assert measured == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 0.05)
    assert len(loads) == (2 if kind == "phi" else 1)  # a bias is not looked for on the disk


def test_of_a_head_that_does_more_than_is_known_the_models_own_logits_are_compared(tmp_path):
    """And nothing is kept, as they are far larger than hidden states."""

    def bend(_module, _arguments, output):
        output.logits = 3 * output.logits.sin()
        return output

    base = made("llama")
    tuned = copy.deepcopy(base)
    tuned.get_output_embeddings().weight.data.mul_(-1)
    for model in (base, tuned):
        model.register_forward_hook(bend)
    states = CachedStates(tmp_path / "states", tmp_path / "base", lambda work: work(base))
    prompts = token_ids(length=12).tolist()
    expected = plain_kl(base, tuned, prompts, [0, 3])
    measured = kl_from_base(tuned, states, prompts, [0, 3])
    assert measured["score"] == pytest.approx(expected, rel=1e-4)
    assert not states.file.exists()


@pytest.mark.parametrize(
    "harm", ["flipped", "of another kind", "without a digest", "of a prompt less", "a pipe"]
)
def test_damaged_cached_states_are_made_again_with_the_same_drift(harm, tmp_path, caplog):
    base = made("llama")
    base.save_pretrained(tmp_path / "base")
    tuned = copy.deepcopy(base)
    tuned.get_output_embeddings().weight.data.mul_(-1)
    states = CachedStates(tmp_path / "states", tmp_path / "base", lambda work: work(base))
    prompts = token_ids(length=12).tolist()
    expected = plain_kl(base, tuned, prompts, [0, 0])
    kl_from_base(tuned, states, prompts)
    content = states.file.read_bytes()
    if harm == "flipped":
        states.file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif harm == "of another kind":
        states.file.write_bytes(content.replace(b'"F32"', b'"I32"'))
    elif harm == "without a digest":
        states.file.write_bytes(save(load(content)))
    elif harm == "of a prompt less":
        kl_from_base(tuned, other := replace(states, file=tmp_path / "other"), prompts[:1])
        other.file.replace(states.file)
    else:
        states.file.unlink()
        os.mkfifo(states.file)
    measured = kl_from_base(tuned, states, prompts)["score"]
    assert measured == pytest.approx(expected, rel=1e-4)
    is_damaged = harm not in ("of a prompt less", "a pipe")
    assert (f"{states.file} is damaged" in caplog.text) == is_damaged
    assert states.file.read_bytes() == content


class OnGpu(torch.nn.Linear):
    """A model that is said to lie on a GPU, and notes where it is sent."""

    def __init__(self, events):
        super().__init__(2, 2)
        self.events, self.device = events, torch.device("cuda")

    def get_memory_footprint(self):
        return 16

    def to(self, device):
        self.events.append(str(device))
        return self


@pytest.mark.parametrize(
    ("free", "events"),
    [(23, ["cpu", "loaded", "asked", "gone", "cuda"]), (100, ["loaded", "asked"])],
)
def test_the_tuned_model_waits_on_the_cpu_where_a_gpu_cannot_hold_both(free, events, monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "free_memory", lambda device: free)

    class Base:
        def __init__(self):
            seen.append("loaded")

        def __del__(self):
            seen.append("gone")

    found = evaluate._run_with_other_model(
        OnGpu(seen), Base, lambda base: seen.append("asked") or 5
    )
    assert found == 5
    assert seen[: len(events)] == events
    assert seen.count("gone") == 1


def test_moved_weights_can_still_be_trained():
    model = torch.nn.Linear(2, 2)
    with torch.inference_mode():
        memory._move(model, "meta")
    assert not model.weight.is_inference()


def test_the_end_of_an_answer_counts_as_a_prediction(
    base, tuned, answered, renderer, tmp_path, monkeypatch
):
    """Where the base ends an answer, the prediction after its last token counts too."""
    end = renderer.end_of_turn

    def says(*tokens):
        left = iter(tokens)
        return lambda logits: torch.full((len(logits),), next(left))

    prompts = [renderer.prompt_ids(one.messages) for one in EXAMPLES]
    monkeypatch.setattr(domain_drift, "sampler", lambda seed: says(40, 41, end))
    (sequences, starts), _ = answered(fingerprint="of two tokens")
    assert sequences == [[*prompt, 40, 41] for prompt in prompts]
    assert starts == [len(prompt) - 1 for prompt in prompts]
    monkeypatch.setattr(domain_drift, "sampler", lambda seed: says(end))
    (sequences, starts), _ = answered()
    assert sequences == prompts
    assert [len(ids) - start for ids, start in zip(sequences, starts, strict=True)] == [1] * 5
    states = CachedStates(tmp_path / "states", tmp_path / "base", lambda work: work(base))
    measured = kl_from_base(tuned, states, sequences, starts)
    assert measured["score"] == pytest.approx(plain_kl(base, tuned, sequences, starts), rel=1e-4)


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-3],
        lambda content: gzip.compress(json.dumps([[[1], False]] * 4).encode()),
        lambda content: gzip.compress(json.dumps([[[1.5], False]] * 5).encode()),
        lambda content: gzip.compress(json.dumps([[[1] * 8, True]] * 5).encode()),
        lambda content: gzip.compress(json.dumps([[[], True]] * 5).encode()),
    ],
    ids=["torn", "too few", "no ids", "too long", "cut at nothing"],
)
def test_answers_of_the_base_are_cached_and_made_again_when_damaged(
    answered, harm, tmp_path, caplog
):
    first, loads = answered()
    assert loads == 1
    assert answered() == (first, 1)
    (file,) = tmp_path.glob("scores/base-answers-*.json.gz")
    content = file.read_bytes()
    file.write_bytes(harm(content))
    caplog.clear()
    assert answered() == (first, 2)
    assert str(file) in caplog.records[0].getMessage()
    assert file.read_bytes() == content
    others, loads = answered(EXAMPLES[:2])
    assert loads == 3
    assert len(others[0]) == 2
    assert answered(fingerprint="another base")[1] == 4
    assert answered(EXAMPLES[::-1])[1] == 5
    assert answered(budget=3) == (([ids[:-4] for ids in first[0]], first[1]), 6)
    assert answered() == (first, 6)


def test_prompts_that_leave_no_room_for_an_answer_are_left_out(answered, base):
    word = "word " * base.config.max_position_embeddings
    long = Example("long", ({"role": "user", "content": word},), "")
    (sequences, _), loads = answered([long, EXAMPLES[0]])
    assert (len(sequences), loads) == (1, 1)
    assert answered([long]) == (([], []), 1)


def test_cached_states_are_those_of_one_base_on_these_tokens_in_one_dtype(
    tuned, tiny_source, tiny_config, tmp_path, monkeypatch
):
    def file(prompts=((1, 2, 3),), starts=None, model=tuned, fingerprint="base"):
        source = replace(tiny_source, fingerprint=fingerprint)
        found = evaluate._Base(model, source, tiny_config, tmp_path, False).states(prompts, starts)
        return found.file

    half = copy.deepcopy(tuned).bfloat16()
    files = [file(), file(((1, 2, 4),)), file(starts=[0]), file(starts=[1]), file(model=half)]
    files += [file(fingerprint="another base"), file(model=copy.deepcopy(tuned).to("meta"))]
    assert file() == files[0]
    monkeypatch.setattr(evaluate, "package_versions", lambda: {"torch": "0.1"})
    files.append(file())
    assert len({*files}) == len(files)


def test_the_prompts_of_drift_are_spread_over_all_rows(answered, renderer, monkeypatch):
    monkeypatch.setattr(domain_drift, "PROMPTS", 4)
    monkeypatch.setattr(evaluate, "DRIFT_PROMPTS", 4)
    asked = [
        Example(str(number), ({"role": "user", "content": f"{number}?"},), "")
        for number in range(7)
    ]
    (sequences, starts), _ = answered(asked)
    prompts = [ids[: start + 1] for ids, start in zip(sequences, starts, strict=True)]
    assert prompts == [renderer.prompt_ids(asked[place].messages) for place in (0, 2, 4, 6)]
    texts = [(f"{number}?", False) for number in range(7)]
    expected = [renderer.tokenizer(f"{number}?").input_ids for number in (0, 2, 4, 6)]
    assert evaluate._drift_prompts(texts, renderer, None) == expected


def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0])
    tokens = sampler(0)(logits.expand(20_000, 4))
    shares = tokens.bincount(minlength=4) / len(tokens)
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.015, rtol=0)
    assert torch.equal(tokens, sampler(0)(logits.expand(20_000, 4)))
    assert not torch.equal(tokens, sampler(1)(logits.expand(20_000, 4)))
    colder = sampler(0, temperature=0.5)(logits.expand(20_000, 4)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(colder, (2 * logits).softmax(-1), atol=0.015, rtol=0)
    # One number decides each row, whatever else there is that cannot be drawn.
    never = torch.tensor([-torch.inf])
    padded = torch.cat([never, logits[:2], never, logits[2:], never]).expand(20_000, 7)
    assert torch.equal(torch.tensor([1, 2, 4, 5])[tokens], sampler(0)(padded))
