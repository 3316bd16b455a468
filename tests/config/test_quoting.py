"""Paths and other texts on the command line, whatever characters they have."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from talr_cli.config.composition import compose_config
from talr_cli.config.quoting import with_quoted_texts
from talr_cli.sweep.grid import expand_grid


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
    (override,) = with_quoted_texts("train", [f"dataset.train={typed}"])
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
    (override,) = with_quoted_texts(command, [typed])
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    assert str(getattr(parsed.value(), "text", parsed.value())) == typed.partition("=")[2]
    assert with_quoted_texts("train", ["runs_dir=a,b"]) == ["runs_dir=a,b"]  # two, of a sweep


@pytest.mark.parametrize("name", ["2025_11", "1e6", "true", "007", "nan", "12e4567", "a-1.5"])
def test_a_name_that_looks_like_a_number_stays_as_typed(name):
    """study=2025_11 was written to runs/202511, and revision 12e4567 was `inf`."""
    composed = compose_config("train", [f"study={name}", f"model.revision={name}"]).config
    assert (composed.study, composed.model.revision) == (name, name)
    (point, other) = expand_grid(["model=tiny", f"study={name},b"], None)
    assert (point.config.study, other.config.study) == (name, "b")


def test_null_and_numbers_stay_what_they_are():
    composed = compose_config("train", ["model.revision=null", "trainer.max_steps=1_000"]).config
    assert (composed.model.revision, composed.trainer.max_steps) == (None, 1000)
