"""Files of rows: endings, encodings, separators, blank cells, and which files a pattern names."""

import csv
import gzip
import json
import math
import tracemalloc
import zlib

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from talr_cli.data import files
from talr_cli.data.files import find_files, read_files
from talr_cli.data.jsonl import Jsonl
from talr_cli.data.rows import has_text
from talr_cli.errors import UserError
from talr_cli.fields import expand_home, identity_of
from talr_cli.runs.places import files_at
from talr_cli.runs.run_directory import RunDirectory

ROWS = [{"prompt": f"größer; {n}\tor not, {n}?", "completion": f"ja {n}"} for n in range(3)]


def table(path, separator, rows=ROWS, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def lines(rows=ROWS):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def refusal(path, **values):
    with pytest.raises(UserError) as error:
        Jsonl(train=str(path), **values).load()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    (tmp_path / "lines.jsonl").write_bytes(lines())
    (tmp_path / "BOM.JSONL").write_bytes(b"\xef\xbb\xbf" + lines())
    (tmp_path / "array.json").write_text(json.dumps(ROWS))
    (tmp_path / "array.jsonl").write_text(json.dumps(ROWS))
    (tmp_path / "indented.jsonl").write_bytes(
        b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=2).encode()
    )
    (tmp_path / "lines.json").write_bytes(b"\xef\xbb\xbf" + lines())  # as Dataset.to_json does
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": ROWS, "errors": []}))
    table(tmp_path / "commas.csv", ",")
    table(tmp_path / "semicolons.csv", ";")
    table(tmp_path / "tabs.csv", "\t")
    text = (tmp_path / "semicolons.csv").read_text()
    (tmp_path / "excel.csv").write_text(f"\ufeffsep=;\r\n{text}")
    table(tmp_path / "tabs.tsv", "\t", encoding="utf-8-sig")
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "table.parquet")
    plain = sorted(tmp_path.iterdir())
    for path in plain:
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        assert [row.values for row in read_files(str(path))] == ROWS, path.name
    assert len(list(tmp_path.iterdir())) == 2 * len(plain) == 26


def test_a_table_of_one_column_and_a_quoted_header(tmp_path):
    (tmp_path / "a.csv").write_text('messages\n"[1, 2; 3]"\n')
    assert [row.values for row in read_files(str(tmp_path / "a.csv"))] == [
        {"messages": "[1, 2; 3]"}
    ]
    (tmp_path / "b.csv").write_text('"a, b, c";completion\nx;y\n')
    assert [row.values for row in read_files(str(tmp_path / "b.csv"))] == [
        {"a, b, c": "x", "completion": "y"}
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "{}".encode("utf-16"), "is UTF-16, UTF-32 or not text: save it as UTF-8"),
        ("a.csv", "prompt,completion".encode("utf-16-le"), "is UTF-16"),
        ("a.json.gz", gzip.compress(b"[]", mtime=0)[:-6], "is not a whole gzip file"),
        ("a.json.gz", b"[]", "is not a whole gzip file"),
        ("a.json.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 1}]}', "2 of its keys hold a list"),
        ("a.json", b'{"prompt": ["a"], "completion": ["b"]}', "none of its keys holds a list"),
        ("a.json", b'{"messages": [{"role": "user"}]}', "none of its keys holds a list"),
        ("a.csv", b"prompt,completion,prompt\na,b,c\n", "has two columns of the name prompt"),
        ("a.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "the key prompt comes twice"),
        ("a.parquet.gz", gzip.compress(b"no table", mtime=0), "is not a Parquet file"),
        ("a.jsonl", b'[{"prompt": "a", "completion": "b"}\n', "is not JSON (Expecting"),
        ("a.jsonl", b"[1]\n[2]\n", "is not JSON (Extra data"),
        (
            "a.jsonl",
            b'\n{\n "prompt": "a"\n}\n{\n}\n',
            "several lines: write each on a line of its",
        ),
        ("a.json", b'{\n "prompt": "a"\n}\n{\n}\n', "several lines: write each on a line of its"),
        ("a.csv", b"sep=;\nprompt;completion\na;b\nc\n", "a.csv:4 has 1 fields, not 2"),
        ("a.csv", b"sep=;\n", "holds no row"),
        ("a.csv", b"PK\x03\x04\x14\0", "is a zip archive or an Excel file"),
        ("a.csv", b"PAR1\x15", "is a Parquet file: name it .parquet"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "is a gzip file: name it with .gz"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\0", "is compressed by zstd"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
        (
            "a.csv",
            "prompt,completion,größe\na,b,c\n".encode("latin-1"),
            "a header that is not UTF-8",
        ),
        ("a.csv", b'prompt,completion\na,"b\nc,"d"\ne,f\n', "a.csv:2 cannot be read as CSV"),
        ("a.csv", b'prompt,completion\na,b\nc,"d\ne,f\n', "a.csv:3 cannot be read as CSV"),
        ("a.csv", b'prompt,completion\n"say \\"b\\"",c\n', "quotes in it are written twice"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{zlib.crc32(value):x}",
)
def test_files_that_cannot_be_used(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(tmp_path / name)


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    """Of a packed file one line may be more than the memory holds."""
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    row = b'{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row + b"a" * 5000 + b"\n" + row))
    assert "a.jsonl.gz:2 is longer than" in refusal(tmp_path / "a.jsonl.gz")
    (tmp_path / "b.jsonl").write_bytes(row * 9)
    assert len(list(read_files(str(tmp_path / "b.jsonl")))) == 9
    for name, content in {
        "c.csv.gz": b"a" * 5000,
        "d.csv.gz": b"prompt,completion\nb,c\n" + b"a" * 5000,
        "e.csv.gz": b'prompt,completion\n"' + b"a\n" * 5000,
    }.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
        assert f"{name}:" in refusal(tmp_path / name)
    monkeypatch.setattr(files, "LARGEST", 1000)
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(b"[" + b" " * 5000))
    assert "f.json.gz is larger than" in refusal(tmp_path / "f.json.gz")


@pytest.mark.parametrize("where", ["~nobody-of-this-name/a.jsonl", "a" * 5000, "a/" * 3000])
def test_an_impossible_path_is_one_line(where):
    with pytest.raises(UserError, match="cannot look for"):
        list(read_files(where))


def test_a_space_behind_the_separators_of_a_header_is_in_no_cell(tmp_path):
    (tmp_path / "a.csv").write_text('prompt, completion\n"a", "b, c"\nd, e\n f, g\n')
    assert [list(row.values.values()) for row in read_files(str(tmp_path / "a.csv"))] == [
        ["a", "b, c"],
        ["d", "e"],
        ["f", "g"],
    ]
    (tmp_path / "c.csv").write_text("id, prompt,completion \n1, a, b\n")
    (row,) = read_files(str(tmp_path / "c.csv"))
    assert row.values == {"id": "1", "prompt": " a", "completion": " b"}
    (tmp_path / "b.csv").write_text('"id, of it",prompt,completion\n1, a, b\n')
    assert [list(row.values.values()) for row in read_files(str(tmp_path / "b.csv"))] == [
        ["1", " a", " b"]
    ]


def test_a_damaged_table_is_one_line(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    table = pa.table({"prompt": bad, "completion": ["x"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet has a text after row 0 that is not UTF-8" in refusal(tmp_path / "a.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(b"\0" + whole)
    refusal(tmp_path / "b.parquet")  # its reason has several lines in Arrow
    (tmp_path / "b.parquet").write_bytes(whole[:-20])
    assert "is not a Parquet file, or not a whole one" in refusal(tmp_path / "b.parquet")


def test_rows_of_parquet_are_not_all_in_memory_at_once(tmp_path):
    texts = [f"{n} {'word ' * 800}" for n in range(8192)]  # 32 MB
    parquet.write_table(pa.table({"prompt": texts}), tmp_path / "a.parquet")
    tracemalloc.start()
    rows = 0
    for rows, row in enumerate(read_files(str(tmp_path / "a.parquet")), start=1):
        assert (row.line, row.values) == (rows, {"prompt": texts[rows - 1]})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == len(texts)
    assert most < 12 << 20


def test_the_files_of_a_folder_or_a_pattern_are_logged(tmp_path, caplog):
    for name in ("train.jsonl", "old.jsonl", "more.ndjson"):
        (tmp_path / name).write_bytes(lines())
    assert len(list(read_files(str(tmp_path)))) == 6
    assert f"{tmp_path}: the rows of {tmp_path}/old.jsonl, {tmp_path}/train.jsonl" in caplog.text
    assert f"no files of rows by their endings: {tmp_path}/more.ndjson" in caplog.text
    caplog.clear()
    list(read_files(str(tmp_path / "train.jsonl")))
    assert not caplog.text


WHOLE = {
    "a.jsonl": lines(),
    "a.json": json.dumps(ROWS).encode(),
    "a.csv": b'prompt,completion\n"a ""q""",b\nc,d\n',
    "a.jsonl.gz": gzip.compress(lines(), mtime=0),
}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_to_a_file_gives_one_line_at_most(tmp_path, data):
    name = data.draw(st.sampled_from([*WHOLE, "a.parquet"]))
    if name not in WHOLE:
        parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    content = bytearray(WHOLE.get(name) or (tmp_path / name).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
    (tmp_path / name).write_bytes(content)
    said = ""
    try:
        Jsonl(train=str(tmp_path / name)).load()
    except UserError as error:
        said = str(error)
    assert "\n" not in said


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(has_text)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}), min_size=1))
def test_what_is_read_is_what_was_written(tmp_path, rows):
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table(tmp_path / "a.csv", ",", rows)
    table(tmp_path / "a.tsv", "\t", rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for kind in ("jsonl", "json", "csv", "tsv", "parquet"):
        read = Jsonl(train=str(tmp_path / f"a.{kind}")).load().train
        said = [(one.messages[0]["content"], one.completion) for one in read]
        assert said == [(row["prompt"], row["completion"]) for row in rows], kind


def test_a_lone_surrogate_is_a_bad_row_and_may_be_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "cut \\ud83d", "completion": "x"}\n' + lines())
    assert "1 of 4 rows are bad" in refusal(path)
    assert r"a.jsonl:1 holds \ud83d" in refusal(path)
    splits = Jsonl(train=str(path), on_bad_row="skip", max_bad_share=0.5).load()
    assert [one.id for one in splits.train] == ["train:2", "train:3", "train:4"]
    whole = json.dumps([{"prompt": "smile \U0001f600", "completion": "\ud83d"}])
    (tmp_path / "b.json").write_text(whole)
    assert r"b.json:1 holds \ud83d" in refusal(tmp_path / "b.json")
    pair = json.dumps([{"prompt": "smile \U0001f600", "completion": "x"}])
    (tmp_path / "c.json").write_text(pair)
    assert Jsonl(train=str(tmp_path / "c.json")).load().train[0].messages[0]["content"][-1] == "😀"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_blank_cells_count_as_missing(tmp_path, kind):
    columns = ("id", "answer", "group", "system", "choices", "tools")
    blank = dict.fromkeys(columns, "" if kind == "csv" else None)
    rows = [{**blank, **ROWS[0]}, {**blank, **ROWS[1], "id": "seven", "answer": "7"}]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        table(path, ",", rows)
    else:
        numbers = pa.array([math.nan, math.nan], pa.float64())
        parquet.write_table(pa.Table.from_pylist(rows).append_column("category", numbers), path)
    first, second = Jsonl(train=str(path)).load().train
    assert (first.id, first.reference["answer"]) == (f"train:{2 if kind == 'csv' else 1}", "ja 0")
    assert (second.id, second.reference["answer"]) == ("seven", "7")
    assert (first.group, first.category, first.tools) == ("", "", ())
    assert [part["role"] for part in first.messages] == ["user"]


def test_keys_that_parquet_fills_up_are_left_out(tmp_path):
    """Arrow gives every message all keys that any has."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    other = {"type": "function", "function": {"name": "g", "arguments": {"y": 2}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None, "tool_calls": [call, other]},
            ]
        }
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    example = Jsonl(train=str(tmp_path / "a.parquet"), scorer="none").load().train[0]
    assert example.messages == ({"role": "user", "content": "a"},)
    assert example.reply["tool_calls"] == [call, other]


@pytest.mark.parametrize(
    ("names", "is_refused"),
    [
        (["data/train-00000.jsonl", "data/test-00000.jsonl"], True),
        (["train/0.jsonl", "validation/0.jsonl"], True),
        (["Dev.jsonl", "test.jsonl"], True),
        (["train_1.jsonl", "Train-2.jsonl", "more.jsonl"], False),
        (["training.jsonl", "tests.jsonl", "evaluation.jsonl"], False),
        (["eval/train.jsonl", "eval/other.jsonl"], False),
    ],
)
def test_a_folder_of_several_splits_is_not_read_as_one(tmp_path, names, is_refused):
    """Its test rows would be trained on."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines())
    if is_refused:
        message = refusal(tmp_path)
        assert "holds files of several splits (" in message
        assert message.endswith(f"dataset.hub_id={tmp_path}")
    else:
        assert len(Jsonl(train=str(tmp_path)).load().train) == len(names) * len(ROWS)


def test_a_folder_of_save_to_disk_is_named(tmp_path):
    """Its JSON files are not rows."""
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved" / "train")
    for folder in (tmp_path / "saved", tmp_path / "saved" / "train"):
        assert "was written by save_to_disk: write a split of it as Parquet" in refusal(folder)


def test_of_a_folder_the_studies_in_it_are_no_data(tmp_path):
    """`dataset.train=.` reads, and counts for the identity, the same before and after a run."""
    (tmp_path / "a.jsonl").write_bytes(lines())
    (tmp_path / "data/own/1/x").mkdir(parents=True)
    (tmp_path / "data/own/1/x/config.yaml").write_text("lr: 1\n")
    (tmp_path / "data/own/1/x/b.jsonl").write_bytes(lines())
    before = files_at(str(tmp_path))
    run = RunDirectory(tmp_path / "runs/default/tiny__rows/sft-0123abcd")
    run.path.mkdir(parents=True)
    run.prepare({"lr": 1e-6}, [], "0123abcd" + "0" * 56)
    for file in (run.metrics, run.path.parents[1] / "report.json", run.samples / "domain.jsonl"):
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"a": 1}')
    assert files_at(str(tmp_path)) == before
    assert files_at(str(run.samples)) == [run.samples / "domain.jsonl"]


def test_folders_patterns_lists_and_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b.jsonl", "a.jsonl", "in/c.jsonl", "in/.hidden.jsonl", "in/.cache/d.jsonl"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(lines([ROWS[0]]))
    (tmp_path / "data" / "README.md").write_text("not rows")
    (tmp_path / "data" / "[a].jsonl").write_bytes(lines())

    def names(where):
        return [path.relative_to(tmp_path / "data").as_posix() for path in find_files(where)]

    assert names("~/data") == ["[a].jsonl", "a.jsonl", "b.jsonl", "in/c.jsonl"]
    assert names("~/data/?.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(["~/data/b.jsonl", "~/data/a*"]) == ["b.jsonl", "a.jsonl"]
    assert names("~/data/[a].jsonl") == ["[a].jsonl"]
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_files("data/**/c.jsonl")] == ["data/in/c.jsonl"]
    splits = Jsonl(train=["~/data/b.jsonl", "~/data/in/*.jsonl"]).load()
    assert [one.id for one in splits.train] == ["train:b.jsonl:1", "train:c.jsonl:1"]
    (tmp_path / "empty").mkdir()
    for where, reason in (
        (["~/data/b.jsonl", "~/data/b*"], "b.jsonl is named twice"),
        ("~/data/*.nothing", "does not exist"),
        ("~/empty", "~/empty holds no file that ends with"),
        ("~/data/README.md", "does not end with"),
        ([], "an empty list of files"),
    ):
        with pytest.raises(UserError, match=reason):
            find_files(where)


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    """`load_dataset` takes a folder for a data set of the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(lines())
    (folder / "test.jsonl").write_bytes(lines(ROWS[:1]))
    (tmp_path / "own.jsonl").write_bytes(lines())
    splits = Jsonl(hub_id=str(folder), test_split="test", train_split="train[:2]").load()
    assert [one.completion for one in splits.train] == ["ja 0", "ja 1"]
    assert [one.id for one in splits.test] == ["test:1"]
    mixed = Jsonl(hub_id=str(folder), test=str(tmp_path / "own.jsonl")).load()
    assert (len(mixed.train), len(mixed.test)) == (3, 3)
    with pytest.raises(UserError, match=r"cannot be loaded .*dev.*dataset\.train=FILE"):
        Jsonl(hub_id=str(folder), test_split="dev").load()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: train.jsonl\n"
        "- config_name: two\n  data_files: test.jsonl\n---\n"
    )
    with pytest.raises(UserError, match=r"\['one', 'two'\]\): set dataset\.hub_config, or give"):
        Jsonl(hub_id=str(folder)).load()
    assert len(Jsonl(hub_id=str(folder), hub_config="two").load().train) == 1
    with pytest.raises(UserError, match=r"dataset\.train is required"):
        Jsonl()
    with pytest.raises(UserError, match=r"dataset\.test=7 is not a file, a folder, a pattern"):
        Jsonl(train="a", test=7)
    for named in (2024, [], [1], {"a": 1}, True):  # 2024: a folder of that name, as YAML has it
        with pytest.raises(
            UserError, match=r"dataset\.train=.* is not a file, a folder, a pattern"
        ):
            Jsonl(train=named)


def test_the_content_of_every_file_counts_wherever_it_lies(tmp_path, monkeypatch):
    """Of the training files for what a run is; of the test files for what a score is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("one/a", "one/b", "two/a", "two/b", "test"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_bytes(lines())

    def ids(train):
        files = expand_home(Jsonl, {"train": train, "test": "~/test.jsonl"})
        return tuple(
            json.dumps(identity_of(Jsonl(name="x", **files), whole)) for whole in (False, True)
        )

    wheres = ("~/one", "~/one/*.jsonl", ["~/one/a.jsonl", "~/one/b.jsonl"])
    before = [ids(where) for where in wheres]
    elsewhere = json.loads(json.dumps(wheres).replace("one", "two"))
    assert [ids(where) for where in elsewhere] == before
    (tmp_path / "test.jsonl").write_bytes(lines(ROWS[:1]))
    tested = [ids(where) for where in wheres]
    assert [run for run, _ in tested] == [run for run, _ in before]
    assert not {score for _, score in tested} & {score for _, score in before}
    (tmp_path / "one" / "b.jsonl").write_bytes(lines(ROWS[:1]))
    assert not {run for run, _ in map(ids, wheres)} & {run for run, _ in before}
