"""replay=self: the base's answers that a scorer finds right, kept, and found again."""

import gzip
import json
from dataclasses import replace

import pytest
from command_line import in_two_ranks, weights
from conftest import config

from talr_cli import ranks
from talr_cli.data.base import Example
from talr_cli.errors import UserError
from talr_cli.evaluation import own_answers
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.evaluate import load_to_score
from talr_cli.evaluation.generation import SAMPLED_AT_ONCE, generate_tokens, sampler
from talr_cli.evaluation.memory import BatchSize
from talr_cli.run.make import follow_training, make_by_training
from talr_cli.run.own_rows import with_own_rows
from talr_cli.run.prepare import prepare
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.scorers.base import Verdict
from talr_cli.tracking.base import Tracker

EXAMPLES = [
    Example(str(n), ({"role": "user", "content": f"Count to {n}."},), "1", {"number": n})
    for n in range(6)
]


class Even:
    """Whatever is said, rows of an even number are right; one row cannot be judged."""

    __module__ = "talr_cli.scorers.even"  # what the user's own raise ends the run

    def __call__(self, output, reference):
        if reference.get("number") == 5:
            raise ValueError("an unknown form")
        if reference.get("number") == 3:
            return Verdict(0.5, output)  # half right is not right
        return Verdict(reference.get("number", len(output)) % 2 == 0, output)


def ended(*given):
    """A random model never ends: what counts here is what is made of texts."""
    return [(tokens, False) for tokens, _ in generate_tokens(*given)]


@pytest.fixture
def base(tiny_source, tiny_config, tmp_path, monkeypatch):
    """(model, its loader, how often it was called); pieces of 4 prompts in a cache of their own."""
    monkeypatch.setattr(own_answers, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(own_answers, "PIECE", 4)
    monkeypatch.setattr(own_answers, "generate_tokens", ended)
    model, loads = load_to_score(tiny_source, tiny_config, "cpu"), []

    def load():
        loads.append(1)
        return model

    return model, load, loads


def right_answers(base, renderer, examples=EXAMPLES, fingerprint="base", **changes):
    model, load, _ = base
    asked = {"scorer": Even(), "max_new_tokens": 5, "samples": 1, "temperature": 0.0}
    return own_answers.correct_answers(
        load,
        fingerprint,
        model.config.to_dict(),
        renderer,
        examples,
        **{**asked, **changes},
    )


def test_right_answers_take_the_place_of_the_completions(base, renderer, caplog):
    model, _, _ = base
    requests = [Request(tuple(renderer.prompt_ids(one.messages)), 5) for one in EXAMPLES]
    texts = [
        renderer.tokenizer.decode(tokens, skip_special_tokens=True)
        for start, piece in ((0, requests[:4]), (4, requests[4:]))
        for tokens, _ in generate_tokens(
            model, renderer, piece, BatchSize(SAMPLED_AT_ONCE), sampler(start, 0.5)
        )
    ]
    assert all(text.strip() for text in texts)
    kept = right_answers(base, renderer, temperature=0.5)
    assert [(one.id, one.completion) for one in kept] == [
        ("0/0", texts[0]),
        ("2/0", texts[2]),
        ("4/0", texts[4]),
    ]
    assert [one.messages for one in kept] == [EXAMPLES[number].messages for number in (0, 2, 4)]
    assert "answers to 1 rows cannot be judged, such as 5: an unknown form" in caplog.text


def test_each_answer_counts_once_and_only_where_it_ended(base, renderer, monkeypatch):
    drawn = {"temperature": 1.0, "max_new_tokens": 1}
    kept = right_answers(base, renderer, samples=5, **drawn)
    for example in EXAMPLES:
        own = [one.completion for one in kept if one.id.split("/")[0] == example.id]
        assert len(own) == len(set(own))
    assert len(kept) > len(right_answers(base, renderer, **drawn))
    said = renderer.tokenizer("42", add_special_tokens=False).input_ids
    for cut, budget, count in ((True, 5, 0), (False, 6, 3)):
        monkeypatch.setattr(
            own_answers, "generate_tokens", lambda *given, cut=cut: [(said, cut)] * len(given[2])
        )
        assert len(right_answers(base, renderer, max_new_tokens=budget, samples=3)) == count


def test_each_prompt_keeps_its_own_answers_and_nothing_of_its_row(base, renderer, monkeypatch):
    """An answer of nothing but space is none, nor can a prompt be answered that leaves no room."""
    prompts = {tuple(renderer.prompt_ids(one.messages)): one.id for one in EXAMPLES}
    drawn = []

    def says(model, renderer, requests, *given):
        for request in requests:
            said = f"<think>\n\nhm\n</think>\n\n{prompts[request.prompt]}"
            drawn.append(" \n" if len(drawn) % 2 else said)
        ids = [renderer.tokenizer(one, add_special_tokens=False).input_ids for one in drawn]
        return [(one, False) for one in ids]

    def judge(output, reference):
        return Verdict(output.strip() in ("", str(reference["number"])), output)

    monkeypatch.setattr(own_answers, "generate_tokens", says)
    word = "word " * base[0].config.max_position_embeddings
    rows = [replace(EXAMPLES[0], messages=({"role": "user", "content": word},))]
    rows += [replace(one, turns=(0,), reply_fields={"thinking": "So."}) for one in EXAMPLES[1:3]]
    asked = {"scorer": judge, "max_new_tokens": 20, "samples": 2}
    kept = right_answers(base, renderer, rows, **asked)
    assert [one.id for one in kept] == ["1/0", "2/0"]
    assert [one.completion[-11:] for one in kept] == ["</think>\n\n1", "</think>\n\n2"]
    assert [(one.turns, one.reply_fields) for one in kept] == [((), {})] * 2
    monkeypatch.setattr(renderer, "thought_marks", {"<think>", "</think>"})
    assert [one.completion for one in right_answers(base, renderer, rows, **asked)] == ["1", "2"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-4],
        lambda content: gzip.compress(json.dumps([[[1], False]] * 3).encode()),
        lambda content: gzip.compress(json.dumps([[[1], False]] * 8).encode()),
        lambda content: gzip.compress(json.dumps([[[1], None]] * 4).encode()),
    ],
    ids=["torn", "too few", "too many samples", "a null"],
)
def test_a_killed_or_damaged_stage_makes_only_what_is_missing(
    base, renderer, harm, tmp_path, caplog
):
    loads, drawn = base[2], {"temperature": 1.0}
    first = right_answers(base, renderer, **drawn)
    assert (right_answers(base, renderer, **drawn), len(loads)) == (first, 1)
    files = sorted(tmp_path.glob("cache/own_answers/*.json.gz"))
    prompts = {len(json.loads(gzip.decompress(file.read_bytes()))): file for file in files}
    assert prompts.keys() == {4, 2}
    content = prompts[4].read_bytes()
    prompts[4].unlink()  # as after a kill
    caplog.clear()
    assert right_answers(base, renderer, **drawn) == first
    assert "the base answers 4 prompts" in caplog.text
    assert "the base answers 2 prompts" not in caplog.text
    assert prompts[4].read_bytes() == content
    prompts[4].write_bytes(harm(content))
    assert right_answers(base, renderer, **drawn) == first
    assert str(prompts[4]) in caplog.text
    # Another scorer judges the same answers; another budget, temperature or base has others.
    before = len(loads)
    right_answers(base, renderer, scorer=lambda output, reference: Verdict(True, None), **drawn)
    assert len(loads) == before
    changes = {"max_new_tokens": 4}, {"temperature": 0.5}, {"fingerprint": "another base"}
    for count, changed in enumerate(changes, 1):
        right_answers(base, renderer, **{**drawn, **changed})
        assert len(loads) == before + count


def prepared_run(tmp_path, *more):
    return prepare(
        config(
            "train",
            *("model=tiny", "device=cpu", "logger=none", f"runs_dir={tmp_path}"),
            *("dataset.train_rows=6", "trainer.max_steps=2", "trainer.batch_size=2"),
            *("replay=self", "replay.max_new_tokens=5", *more),
        )
    )


def replaying_run(folder):
    """A run that mixes them in, in fp32, judged by `Even`."""
    fp32 = ("trainer.precision=fp32", "trainer.save_dtype=float32")
    run = prepared_run(folder, "replay.share=0.5", "lr=1e-3", *fp32)
    return replace(run, splits=replace(run.splits, scorer=Even()))


@pytest.mark.parametrize("share", [1, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_run_trains_on_the_right_answers_of_its_base(base, share, tmp_path):
    run = prepared_run(tmp_path, f"replay.share={share}")
    run = replace(run, splits=replace(run.splits, scorer=Even()))
    own, facts = with_own_rows(run)
    assert facts["own_answers"] == 6
    rows = own.rows if share == 1 else own.general
    assert 0 < facts["own_rows"] == len(rows)
    # Each is a prompt as the base was asked it, then what it said, to the end of its turn.
    prompts = [run.renderer.prompt_ids(one.messages) for one in run.splits.train]
    for row in rows:
        (prompt,) = [ids for ids in prompts if row.input_ids[: len(ids)] == ids]
        assert row.labels == [-100] * len(prompt) + row.input_ids[len(prompt) :]
        assert row.targets[-1] == run.renderer.end_of_turn
        assert row.targets not in [one.targets for one in run.rows]
    with run.directory.lock():
        run.directory.prepare({}, [], run.identity)
        make_by_training()(run, Tracker())
    training = run.directory.read_training()["training"]
    assert {name: training[name] for name in facts} == facts
    assert training["rows"] == (facts["own_rows"] if share == 1 else 6)


def test_rows_that_the_template_refuses_are_not_asked(base, tmp_path):
    """As dataset.on_bad_row=skip leaves them out of the training."""
    run = prepared_run(tmp_path)
    refused = Example("refused", ({"role": "user", "content": "\ud800"},), "1", {"number": 2})
    splits = replace(run.splits, train=[refused, *run.splits.train], scorer=Even())
    own, facts = with_own_rows(replace(run, splits=splits))
    assert facts["own_answers"] == 6
    assert len(own.rows) == facts["own_rows"] > 0


@pytest.mark.slow
def test_two_ranks_train_on_what_the_first_one_has_kept(base, tmp_path):
    alone = replaying_run(tmp_path / "alone")
    with alone.directory.lock():
        alone.directory.prepare({}, [], alone.identity)
        make_by_training()(alone, Tracker())
    in_two_ranks(as_rank, tmp_path / "together")
    (model,) = (tmp_path / "together").glob("*/*/*/model")
    together = RunDirectory(model.parent)
    one, other = (run.read_training()["training"] for run in (alone.directory, together))
    assert (one["processes"], other["processes"]) == (1, 2)
    for name in ("own_answers", "own_rows", "rows", "target_tokens"):
        assert one[name] == other[name]
    ours, theirs = (run.read_metrics() for run in (alone.directory, together))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    found, expected = weights(together.path), weights(alone.directory.path)
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm() / tensor.norm()) < 1e-4, name


def test_no_right_answer_or_no_scorer_is_refused_in_one_line(base, tmp_path):
    run = prepared_run(tmp_path)
    wrong = replace(run.splits, scorer=lambda output, reference: Verdict(False, None))
    with pytest.raises(UserError, match=r"none of 6 answers of the base is right.*replay\.samples"):
        with_own_rows(replace(run, splits=wrong))
    row = json.dumps({"prompt": "What is 2 + 2?", "completion": "4"})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 6)
    rows = (f"dataset.train={tmp_path}/rows.jsonl", "dataset.scorer=none", f"runs_dir={tmp_path}")
    with pytest.raises(UserError, match=r"dataset=rows has none: name one with dataset\.scorer"):
        prepare(config("train", "model=tiny", "device=cpu", "dataset=jsonl", *rows, "replay=self"))


def test_the_scorer_counts_for_the_identity_where_it_chooses_the_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = json.dumps({"prompt": "What is 2 + 2?", "completion": "4"})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 6)
    (tmp_path / "test.jsonl").write_text(f"{row}\n".replace("2 + 2", "3 + 1"))
    common = (
        *("model=tiny", "device=cpu", "dataset=jsonl", "dataset.train=rows.jsonl"),
        *("dataset.test=test.jsonl", "trainer.batch_size=2"),
    )

    def identities(comment, scorer="own_judge.judge"):
        text = f"def judge(output, reference):\n    return True  # {comment}\n"
        (tmp_path / "own_judge.py").write_text(text)
        return [
            prepare(config("train", *common, f"dataset.scorer={scorer}", f"replay={name}")).identity
            for name in ("none", "self")
        ]

    found = [
        identities("one"),
        identities("other"),
        identities("other", "exact_match"),
        identities("other", "numeric"),
    ]
    without, with_own = zip(*found, strict=True)
    assert len({*without}) == 1
    assert len({*with_own}) == 4


def as_rank(folder):
    """One rank: the first one asks the base, the other has no model to ask."""
    ranks.connect("cpu")
    own_answers.cache_dir, own_answers.PIECE = (lambda: folder / "cache"), 4
    own_answers.generate_tokens = ended if ranks.is_main() else None
    run = replaying_run(folder)
    if not ranks.is_main():
        follow_training([run])
    else:
        with run.directory.lock():
            run.directory.prepare({}, [], run.identity)
            make_by_training()(run, Tracker())
    ranks.disconnect()
