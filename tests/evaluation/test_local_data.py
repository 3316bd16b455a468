"""Task data from local files: what is found, what is missing, and that content counts."""

import gzip
import json
import shutil
import zipfile
from dataclasses import replace

import pandas
import pytest
from conftest import config, jsonl

from talr_cli.commands import eval as command
from talr_cli.errors import UserError
from talr_cli.evaluation.general.tasks import definition_hash, load_tasks
from talr_cli.run import record
from talr_cli.statistics.pairs import measured_alike

ROWS = [
    {"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"}
    for n in range(8)
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gsm8k_train.jsonl").write_text(jsonl(ROWS))
    (tmp_path / "gsm8k_test.jsonl").write_text(jsonl(ROWS[:3]))
    return tmp_path


def paper(folder, *tasks, **files):
    suite = config("eval", "suite=paper", f"suite.data_dir={folder}").suite
    suite.tasks = list(tasks) or suite.tasks
    for task, splits in files.items():
        suite.data_files[task] = splits
    return suite


def test_a_task_reads_the_files_in_any_format(folder, tmp_path_factory):
    expected = definition_hash(load_tasks(paper(folder, "gsm8k")).loaded["gsm8k"], None)
    frames = [pandas.DataFrame(ROWS), pandas.DataFrame(ROWS[:3])]
    for ending, save in {
        "csv": lambda frame, path: frame.to_csv(path, index=False),
        "parquet": lambda frame, path: frame.to_parquet(path),
        "jsonl.gz": lambda frame, path: path.write_bytes(
            gzip.compress(jsonl(frame.to_dict("records")).encode())
        ),
    }.items():
        other = tmp_path_factory.mktemp("data")
        save(frames[0], other / f"gsm8k_train.{ending}")
        save(frames[1], other / f"gsm8k-test.{ending}")
        task = load_tasks(paper(other, "gsm8k")).loaded["gsm8k"]
        assert [row["question"] for row in task.eval_docs] == [row["question"] for row in ROWS[:3]]
        assert definition_hash(task, None) == expected, ending


def test_shots_come_from_the_train_file_and_change_the_definition(folder):
    before = load_tasks(paper(folder, "gsm8k")).loaded["gsm8k"]
    (folder / "gsm8k_train.jsonl").write_text(jsonl(reversed(ROWS)))
    after = load_tasks(paper(folder, "gsm8k")).loaded["gsm8k"]
    assert next(iter(before.fewshot_docs()))["question"] == "What is 0 + 0?"
    assert definition_hash(before, None) != definition_hash(after, None)
    (folder / "gsm8k_test.jsonl").write_text(jsonl([*ROWS[:2], ROWS[3]]))
    other = load_tasks(paper(folder, "gsm8k")).loaded["gsm8k"]
    assert definition_hash(other, 2) == definition_hash(after, 2)
    assert definition_hash(other, None) != definition_hash(after, None)
    assert definition_hash(other, 3) != definition_hash(other, None)


def test_a_task_without_shots_needs_only_the_split_that_is_scored(tmp_path):
    row = {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Sing to it.", "label": 0}
    (tmp_path / "piqa_validation.jsonl").write_text(jsonl([row]))
    suite = config("eval", "suite=lite", f"suite.data_dir={tmp_path}", "suite.tasks=[piqa]").suite
    (doc,) = load_tasks(suite).loaded["piqa"].eval_docs
    assert doc["goal"] == "Open a jar."


def test_a_task_without_data_is_named_and_the_others_are_loaded(folder, caplog):
    tasks = load_tasks(paper(folder, "gsm8k", "humaneval_instruct"))
    assert list(tasks.loaded) == ["gsm8k"]
    (reason,) = tasks.missing.values()
    for part in ("humaneval_instruct", "HumanEval*", str(folder), "openai/openai_humaneval"):
        assert part in reason
    assert reason in caplog.text


def test_no_task_left_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no task left: gsm8k: .*gsm8k\*test"):
        load_tasks(paper(tmp_path, "gsm8k"))


def test_ambiguous_or_unreadable_data_files_are_named(folder):
    (folder / "gsm8k_old_test.jsonl").write_text("")
    with pytest.raises(UserError, match=r"gsm8k_old_test.jsonl, gsm8k_test.jsonl .* could each be"):
        load_tasks(paper(folder, "gsm8k"))
    chosen = {"train": "gsm8k_train.jsonl", "test": str(folder / "gsm8k_test.jsonl")}
    assert load_tasks(paper(folder, "gsm8k", gsm8k=chosen)).loaded
    pandas.DataFrame(ROWS).to_csv(folder / "old.csv", index=False)
    with pytest.raises(UserError, match=r"gsm8k_test.jsonl, \S+old.csv are of different formats"):
        load_tasks(paper(folder, "gsm8k", gsm8k={**chosen, "train": "old.csv"}))
    (folder / "gsm8k_test.jsonl").write_text(jsonl([{"problem": "2 + 2?"}]))
    with pytest.raises(UserError, match=r"cannot be read as the columns of openai/gsm8k"):
        load_tasks(paper(folder, "gsm8k", gsm8k=chosen))


def test_the_content_of_data_files_counts_for_the_identity_of_scores(folder, tmp_path_factory):
    def identity(where):
        return record.scoring_identity(config("eval", "suite=paper", f"suite.data_dir={where}"))

    before = identity(folder)
    moved = tmp_path_factory.mktemp("moved")
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert identity(moved) == before
    (moved / "gsm8k_train.jsonl").write_text(jsonl(ROWS[:7]))
    assert identity(moved) != before


def test_files_that_help_a_task_are_part_of_its_definition(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ncustom_dataset: !function judge.items\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: ''\n"
        "process_results: !function judge.judge\n"
        "metric_list: [{metric: good, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "judge.py").write_text(
        "from datasets import Dataset\n"
        "def items(**_): return {'test': Dataset.from_list([{'q': 'Hi'}])}\n"
        "def judge(doc, results): return {'good': right(results[0])}\n"
        "def right(answer): return 0.0\n"
    )
    suite = config(
        "eval", "suite.tasks=[mine]", f"suite.task_dir={tmp_path}", "+suite.metrics.mine=good"
    ).suite
    before = definition_hash(load_tasks(suite).loaded["mine"], None)
    assert definition_hash(load_tasks(suite).loaded["mine"], None) == before
    moved = replace(suite, task_dir=str(shutil.copytree(tmp_path, tmp_path.with_name("moved"))))
    task = load_tasks(moved).loaded["mine"]
    assert definition_hash(task, None) == before
    with monkeypatch.context() as patched:
        patched.setattr("talr_cli.evaluation.general.tasks.metadata.version", lambda name: "0.1")
        assert definition_hash(task, None) != before
    task.set_config(key="doc_to_text", value="{{q}}")
    assert definition_hash(task, None) != before
    helper = tmp_path / "judge.py"
    helper.write_text(helper.read_text().replace("0.0", "1.0"))
    changed = definition_hash(load_tasks(suite).loaded["mine"], None)
    assert changed != before
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "list.txt").write_text("yes")
    assert definition_hash(load_tasks(suite).loaded["mine"], None) not in (before, changed)


@pytest.mark.parametrize(
    ("kind", "judge", "metric", "known"),
    [
        ("generate_until", "{'good': 1.0, 'long': len(results[0])}", "long", None),
        ("generate_until", "{'good': 1.0, 'long': len(results[0])}", "goood", "good,none; long"),
        ("generate_until", "{'good': results[0][0]}", "unknown", None),  # fails on no answer
        ("multiple_choice", "{'liked': max(results)[0], 'n': len(results)}", "n", None),
        ("multiple_choice", "{'liked': max(results)[0], 'n': len(results)}", "m", "liked,none"),
    ],
)
def test_a_metric_that_process_results_does_not_give_is_refused_before_any_answer(
    kind, judge, metric, known, tmp_path
):
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ncustom_dataset: !function judge.items\ntest_split: test\n"
        f"output_type: {kind}\ndoc_to_text: q\ndoc_to_target: 0\n"
        f"{'doc_to_choice: [a, b]' * (kind == 'multiple_choice')}\n"
        "process_results: !function judge.judge\n"
        "metric_list: [{metric: good, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "judge.py").write_text(
        "from datasets import Dataset\n"
        "def items(**_): return {'test': Dataset.from_list([{'q': 'Hi'}])}\n"
        f"def judge(doc, results): return {judge}\n"
    )
    typed = ("suite.tasks=[mine]", f"suite.task_dir={tmp_path}", f"+suite.metrics.mine={metric}")
    if known is None:
        load_tasks(config("eval", *typed).suite)
        return
    with pytest.raises(UserError, match=f"^suite.metrics: {metric}: mine has .*{known}"):
        load_tasks(config("eval", *typed).suite)


@pytest.mark.parametrize(("sampler", "most"), [("default", 2), ("first_n", 2)])
@pytest.mark.parametrize("split", ["test", "dev"])
def test_more_shots_than_there_are_examples_are_refused(sampler, most, split, tmp_path):
    """Of three rows; an item of the rows that are scored is not shown its own answer."""
    most += split == "dev"
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ncustom_dataset: !function own.items\ntest_split: test\nfewshot_split: {split}"
        f"\nfewshot_config: {{sampler: {sampler}}}\noutput_type: generate_until\n"
        "doc_to_text: q\ndoc_to_target: '{{q}}'\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "own.py").write_text(
        "from datasets import Dataset\n"
        "rows = Dataset.from_list([{'q': str(one)} for one in range(3)])\n"
        "def items(**_): return {'test': rows, 'dev': rows}\n"
    )

    def load(shots):
        typed = ("suite.tasks=[mine]", f"suite.task_dir={tmp_path}", f"+suite.shots.mine={shots}")
        (task,) = load_tasks(
            config("eval", *typed, "+suite.metrics.mine=exact_match").suite
        ).loaded.values()
        return task

    task = load(most)
    task.set_fewshot_seed(1)
    shown = task.fewshot_context(task.eval_docs[0], most)
    assert shown.count("\n\n") == most
    with pytest.raises(UserError, match=f"show {most + 1} examples, and there are {most}"):
        load(most + 1)


def test_the_content_of_a_task_folder_counts_for_the_identity_of_scores(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    own = config("eval", f"suite.task_dir={tmp_path}")
    before = record.scoring_identity(own)
    (tmp_path / "mine.yaml").write_text("task: mine\nnum_fewshot: 1\n")
    assert record.scoring_identity(own) != before


def test_batch_size_and_sandbox_do_not_count_for_the_identity_of_scores():
    plain = record.scoring_identity(config("eval", "suite=paper"))
    for override in ("suite.batch_size=4", "suite.allow_unsafe_code=true", "domain.batch_size=4"):
        assert record.scoring_identity(config("eval", "suite=paper", override)) == plain
    for override in ("limit=3", "suite.backend=vllm", "suite.chat_template=false"):
        assert record.scoring_identity(config("eval", "suite=paper", override)) != plain


def test_a_mean_without_a_task_is_not_compared_with_a_whole_one():
    gsm8k = {"metric": "exact_match,flexible-extract", "n": 3, "definition": "a"}
    ifeval = {"metric": "prompt_level_strict_acc,none", "n": 3, "definition": "b"}

    def general(**tasks):
        scores = {"suite": "paper", "limit": None, "tasks": tasks}
        return {"run": {"dataset": "medcalc", "base": "ab12"}, "general": scores}

    whole, part = general(gsm8k=gsm8k, ifeval=ifeval), general(gsm8k=gsm8k)
    assert measured_alike(whole, whole, "general")
    assert not measured_alike(whole, part, "general")
    assert measured_alike(part, part, "general")
    other = general(gsm8k={**gsm8k, "definition": "c"})
    assert not measured_alike(part, other, "general")


def test_nltk_data_is_asked_for_before_ifeval_and_found_in_the_folder(folder, monkeypatch):
    pytest.importorskip("langdetect")
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setenv("TALR_CACHE", str(folder / "cache"))
    row = {
        "key": 1,
        "prompt": "Hi",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    }
    (folder / "ifeval_ours.jsonl").write_text(jsonl([row]))
    tasks = load_tasks(paper(folder, "ifeval", "gsm8k"))
    assert "punkt_tab" in tasks.missing["ifeval"]
    assert "python -m nltk.downloader punkt_tab" in tasks.missing["ifeval"]
    (folder / "nltk_punkt_tab.zip").write_bytes(b"PK")
    tasks = load_tasks(paper(folder, "ifeval", "gsm8k"))
    assert "nltk_punkt_tab.zip is damaged" in tasks.missing["ifeval"]
    with zipfile.ZipFile(folder / "nltk_punkt_tab.zip", "w") as archive:
        archive.writestr("punkt_tab/english/abbrev_types.txt", "dr\n")
    tasks = load_tasks(paper(folder, "ifeval", "gsm8k"))
    assert tasks.missing == {}
    assert (
        folder / "cache/nltk/tokenizers/punkt_tab/english/abbrev_types.txt"
    ).read_text() == "dr\n"


def test_talr_eval_scores_what_it_can_and_says_what_it_lacks(folder, monkeypatch, capsys, caplog):
    """In this process, which has read the thousands of files of the harness's tasks."""
    monkeypatch.chdir(folder)
    overrides = (
        "model=tiny", "device=cpu", "suite=paper", "suite.tasks=[gsm8k,humaneval_instruct]",
        "suite.data_dir=.", "suite.drift=false", "limit=2", "domain.max_new_tokens=4",
        "logger=none",
    )  # fmt: skip
    command.main(list(overrides))
    said = capsys.readouterr().out
    assert "left out: humaneval_instruct" in said
    (file,) = folder.glob("runs/*/*/*/results.json")
    general = json.loads(file.read_text())["general"]
    assert list(general["missing"]) == ["humaneval_instruct"]
    assert general["limit"] == general["tasks"]["gsm8k"]["n"] == 2
    metrics = general["tasks"]["gsm8k"]["all"]
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= metrics.keys()
    assert "exact_match,strict-match" in said
    assert "found these scores" not in caplog.text
    command.main(list(overrides))
    assert "found these scores" in caplog.text
