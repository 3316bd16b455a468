"""The generated pairs: labels that follow from the strings, separate splits, the same always."""

from collections import Counter

import pytest

from talr_cli.data.esci_mini import EsciMini
from talr_cli.data.esci_mini_products import BRANDS, COLORS, FAMILIES
from talr_cli.scorers.esci import LABELS

SIZES = {"train_rows": 960, "validation_rows": 192, "test_rows": 480}


@pytest.fixture(scope="module")
def splits():
    return EsciMini(**SIZES).load()


def strings(example):
    """(query, title) as the prompt shows them, in lower case, the title without its last part."""
    query, product = example.messages[0]["content"].splitlines()[:2]
    title = product.removeprefix("Product: ").rpartition(", ")[0]
    return query.removeprefix("Query: ").lower(), title.lower()


def all_rows(splits):
    return [*splits.train, *splits.validation, *splits.test]


def read(text):
    """(family, is accessory, words before the name) of a query or a title."""
    found = [
        (family, is_accessory, text.removesuffix(name).strip())
        for family in FAMILIES
        for is_accessory, names in ((False, family.names), (True, family.accessories))
        for name in names
        if text == name or text.endswith(f" {name}")
    ]
    (one,) = found
    return one


def features(text, family):
    """The brand, color and trait that a text names; nothing else may stand in it."""
    kinds = {"brand": BRANDS, "color": COLORS, "trait": family.values}
    named = {}
    for kind, values in kinds.items():
        for value in values:
            if f" {value.lower()} " in f" {text} ":
                assert kind not in named
                named[kind] = value
                text = f" {text} ".replace(f" {value.lower()} ", " ").strip()
    assert text == ""
    return named


def label_again(example):
    """The label a second time, from the query and the title alone."""
    query, title = strings(example)
    wanted, _, asked = read(query)
    offered, is_accessory, has = read(title)
    if offered.aisle != wanted.aisle:
        return "Irrelevant"
    assert offered is wanted
    if is_accessory:
        return "Complement"
    asked, has = features(asked, wanted), features(has, offered)
    assert asked
    return "Exact" if asked.items() <= has.items() else "Substitute"


def test_labels_agree_with_a_second_judge_who_reads_the_strings(splits):
    for example in all_rows(splits):
        assert label_again(example) == example.reference["answer"], example


def test_there_are_many_families_and_names_are_told_apart():
    assert len(FAMILIES) >= 12
    names = [name for family in FAMILIES for name in (*family.names, *family.accessories)]
    assert len(names) == len(set(names))
    for family in FAMILIES:
        assert sum(one.aisle != family.aisle for one in FAMILIES) >= 10
        assert not {value.lower() for value in family.values} & {*COLORS}


def test_every_rationale_is_right_by_the_scorer_and_ends_with_the_label(splits):
    for example in all_rows(splits):
        assert splits.scorer(example.completion, example.reference).correct
        assert example.completion.splitlines()[-1] == f"Answer: {example.reference['answer']}"
        # No label is named before its line: a model must not be scored by its working.
        working = example.completion.rpartition("\n")[0]
        assert splits.scorer(working, example.reference).parsed is None


def test_the_rationale_names_what_differs(splits):
    for example in all_rows(splits):
        if example.reference["answer"] != "Substitute":
            continue
        query, title = strings(example)
        family, _, asked = read(query)
        asked, has = features(asked, family), features(read(title)[2], family)
        sentence = example.completion.splitlines()[2]
        for kind, value in asked.items():
            key = family.trait if kind == "trait" else kind
            assert (f"another {key}" in sentence) == (has[kind] != value), example


def test_no_query_is_in_two_splits(splits):
    seen = [{strings(example)[0] for example in getattr(splits, name)} for name in (
        "train", "validation", "test"
    )]  # fmt: skip
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert all(seen)


def test_no_pair_occurs_twice_and_every_id_is_its_own(splits):
    examples = all_rows(splits)
    assert len({example.messages[0]["content"] for example in examples}) == len(examples)
    assert len({example.id for example in examples}) == len(examples)


def test_labels_and_families_are_balanced(splits):
    for rows in (splits.train, splits.validation, splits.test):
        counts = Counter(example.reference["answer"] for example in rows)
        assert set(counts.values()) == {len(rows) // 4}
        families = Counter(read(strings(example)[0])[0].names for example in rows)
        assert max(families.values()) - min(families.values()) <= 4


def test_neither_shared_words_nor_the_title_alone_give_the_label_away(splits):
    """The best rule that sees only how many words are shared, or only what is offered."""
    by_overlap, by_title = (Counter(), Counter())
    for example in all_rows(splits):
        query, title = strings(example)
        label = example.reference["answer"]
        shared = len(set(query.split()) & set(title.split()))
        by_overlap[shared, len(query.split()), label] += 1
        by_title[read(title)[1], label] += 1
    for counts in (by_overlap, by_title):
        best = Counter()
        for (*seen, _), n in counts.items():
            best[tuple(seen)] = max(best[tuple(seen)], n)
        assert sum(best.values()) / counts.total() < 0.7


def test_more_training_rows_change_no_test_row():
    few, many = (EsciMini(train_rows=n, test_rows=64).load() for n in (64, 1280))
    assert few.test == many.test
    assert few.train == many.train[:64]


def test_label_targets_hold_the_label_alone():
    completions = {example.completion for example in EsciMini(target="label").load().train}
    assert completions == {f"Answer: {label}" for label in LABELS}
