"""Paths on the command line, whatever characters they have."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from talr_cli.config.quoting import with_quoted_paths


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("~/data/*.jsonl", "~/data/*.jsonl"),
        ("/data/a=b (new)/it's.jsonl", "/data/a=b (new)/it's.jsonl"),
        ("./a=b.jsonl", "./a=b.jsonl"),
        ("data/**/a?.jsonl", "data/**/a?.jsonl"),
        ("[~/a.jsonl, b.csv.gz,~/c.tsv]", ["~/a.jsonl", "b.csv.gz", "~/c.tsv"]),
        ("['~/a.jsonl','/d/[a].jsonl']", ["~/a.jsonl", "/d/[a].jsonl"]),
    ],
)
def test_paths_patterns_and_lists_are_read_as_typed(typed, read):
    (override,) = with_quoted_paths("train", [f"dataset.train={typed}"])
    value = OverridesParser.create().parse_override(override).value()
    texts = [
        str(getattr(one, "text", one)) for one in (value if isinstance(value, list) else [value])
    ]
    assert texts == (read if isinstance(read, list) else [read])


@pytest.mark.parametrize(
    ("command", "typed"),
    [("export", "out=a,b"), ("eval", "runs_dir=/new/a,b"), ("report", "json=a,b.json")],
)
def test_a_comma_belongs_to_the_path_where_there_are_no_lists(command, typed):
    (override,) = with_quoted_paths(command, [typed])
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    assert str(getattr(parsed.value(), "text", parsed.value())) == typed.partition("=")[2]
    assert with_quoted_paths("train", ["runs_dir=a,b"]) == ["runs_dir=a,b"]  # two, of a sweep
