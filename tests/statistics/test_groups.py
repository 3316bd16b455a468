"""What may be set side by side, by content: models and test sets of one name, no base model."""

import itertools

import pytest
from synthetic_study import results, scored

from talr_cli.statistics.groups import comparable, left_out_lines
from talr_cli.statistics.pairs import measure_mismatch, name_of


def run(method, asked="one", base="aaaa0000", lr=1e-6, **where):
    one = scored(method, [1, 0, 0, 1], {"a": [1, 0]}, lr=lr, base=base, **where)
    one["domain"]["items_hash"] = asked
    return one


def shape(groups):
    return [
        ([one["run"]["method"] for one in group.runs], [why for _, why in group.left_out])
        for group in groups
    ]


def test_one_model_on_one_dataset_is_one_group_with_the_base_first():
    (group,) = comparable([run("talr"), run("sft", lr=1e-5), run("base"), run("sft")])
    assert [one["run"]["method"] for one in group.runs] == ["base", "sft", "sft", "talr"]
    assert [one["run"]["lr"] for one in group.runs[1:3]] == [1e-6, 1e-5]
    assert (group.title, group.file_name) == ("small on medcalc", "small__medcalc")
    assert group.base is group.runs[0]
    assert left_out_lines([group]) == []


def test_two_models_of_one_name_are_two_groups_with_names_of_their_own():
    runs = [run("base"), run("sft"), run("sft", base="bbbb1111"), run("base", base="bbbb1111")]
    groups = comparable(runs)
    assert shape(groups) == [(["base", "sft"], []), (["base", "sft"], [])]
    assert [group.title for group in groups] == [
        "small (aaaa0000) on medcalc",
        "small (bbbb1111) on medcalc",
    ]
    assert len({group.file_name for group in groups}) == 2
    assert {one["run"]["base"] for one in groups[1].runs} == {"bbbb1111"}


def test_a_model_without_a_base_never_gets_that_of_its_namesake():
    groups = comparable([run("base"), run("sft"), run("sft", base="bbbb1111", id="b")])
    assert [group.base is None for group in groups] == [False, True]
    assert left_out_lines(groups) == [
        "left out: changes of small (bbbb1111) on medcalc: its base (bbbb1111) was not scored; "
        "the one that was is another model (aaaa0000)"
    ]


def test_two_test_sets_of_one_name_are_two_groups_where_each_has_its_base():
    runs = [run("base"), run("sft"), run("base", "two", id="2"), run("talr", "two")]
    groups = comparable(runs)
    assert shape(groups) == [(["base", "sft"], []), (["base", "talr"], [])]
    assert [group.dataset for group in groups] == ["medcalc (items one)", "medcalc (items two)"]
    assert len({group.file_name for group in groups}) == 2


def test_a_run_on_other_items_than_the_base_is_left_out_and_said():
    groups = comparable([run("base"), run("sft"), run("talr", "two", id="odd")])
    why = "domain was scored on other items (one and two)"
    assert shape(groups) == [(["base", "sft"], [why])]
    assert left_out_lines(groups) == [f"left out: talr-lr1e-6-s0-odd: {why}"]


def test_without_a_base_most_runs_count():
    runs = [run("sft", "two"), run("dft", "one"), run("flow", "two"), run("l2", "two")]
    (group,) = comparable(runs)
    assert [one["run"]["method"] for one in group.runs] == ["flow", "l2", "sft"]
    assert [one["run"]["method"] for one, _ in group.left_out] == ["dft"]


def test_two_bases_that_differ_in_the_suite_are_told_apart_by_it():
    runs = [run("base"), run("base", id="2"), run("sft"), run("talr")]
    for one in (runs[1], runs[3]):
        one["general"]["suite"] = "lite"
    groups = comparable(runs)
    assert [group.dataset for group in groups] == ["medcalc (suite mini)", "medcalc (suite lite)"]
    assert shape(groups) == [(["base", "sft"], []), (["base", "talr"], [])]


def test_whatever_is_there_all_of_a_group_are_alike_and_no_run_is_lost():
    """Over all studies of four runs whose parts are of two kinds or missing."""
    parts = (None, "one", "two")
    kinds = [kind for kind in itertools.product(parts, parts) if kind != (None, None)]
    for chosen in itertools.combinations_with_replacement(kinds, 4):
        runs = []
        for place, (domain, general) in enumerate(chosen):
            one = results("sft", seed=place, id=str(place))
            for part, asked in (("domain", domain), ("general", general)):
                if asked is None:
                    one[part] = None
                else:
                    one[part]["limit"] = asked
            runs.append(one)
        groups = comparable(runs)
        found = [one for group in groups for one in (*group.runs, *only_runs(group.left_out))]
        assert sorted(map(name_of, found)) == sorted(map(name_of, runs))
        for group in groups:
            assert group.runs
            for part in ("domain", "general"):
                assert len({one[part]["limit"] for one in group.runs if one[part]}) <= 1


def only_runs(left_out):
    return [one for one, _ in left_out]


def test_names_that_make_the_same_file_name_do_not_overwrite_each_other():
    groups = comparable([run("sft", model="org/x"), run("sft", model="org-x")])
    assert [group.model for group in groups] == ["org-x", "org/x"]
    assert len({group.file_name for group in groups}) == 2
    long = comparable([run("sft", model="m" * 250 + end) for end in "xy"])
    assert len({group.file_name for group in long}) == 2
    assert all(len(f"{group.file_name}-validation-loss.png") < 255 for group in long)


def test_the_same_model_under_two_names_is_shown_twice():
    groups = comparable([run("base", model="a"), run("sft", model="b")])
    assert [group.title for group in groups] == ["a on medcalc", "b on medcalc"]


@pytest.mark.parametrize(
    ("where", "key", "values", "why"),
    [
        ("domain", "max_new_tokens", (128, 64), "domain had another limit on answers"),
        ("domain", "prompts_hash", ("a" * 16, "b" * 16), "domain used other prompts"),
        ("general", "prompts_hash", ("a" * 16, "b" * 16), "general/a used other prompts"),
        ("general", "prompts_cut", (0, 7), "general/a had the beginnings of other prompts cut off"),
    ],
)
def test_runs_with_other_prompts_or_budgets_are_not_compared(where, key, values, why):
    """As with other `model.template_arguments`, or a smaller `domain.max_new_tokens`."""
    base, same, other, older = run("base"), run("sft"), run("talr", id="odd"), run("l2")
    for one, value in ((base, values[0]), (same, values[0]), (other, values[1])):
        section = one["domain"] if where == "domain" else one["general"]["tasks"]["a"]
        section[key] = value
    (group,) = comparable([base, same, other, older])
    assert [one["run"]["method"] for one in group.runs] == ["base", "l2", "sft"]
    ((_, told),) = group.left_out
    assert told.startswith(why)
    # Models have templates and positions of their own: their means may stand side by side.
    assert measure_mismatch(base, other, where) is None


def test_drift_over_other_prompts_is_said_not_to_be_compared():
    """Of one model, other prompts have another number of tokens."""
    runs = [run("base"), run("sft"), run("talr", id="odd")]
    for one, tokens in zip(runs, (900, 900, 850), strict=True):
        one["drift"] = {"kl_from_base": {"score": 0.1, "stderr": 0.1, "n": 64, "tokens": tokens}}
    (group,) = comparable(runs)
    (line,) = left_out_lines([group])
    assert line.startswith(
        "not comparable: kl_from_base of talr-lr1e-6-s0-odd is over 850 tokens of 64 prompts, "
        "that of most runs over 900 tokens of 64 prompts"
    )
    assert left_out_lines(comparable(runs[:2])) == []
