"""Answers that changed, on the page: of each kind some, and their texts as they are."""

from talr_cli.report.examples import MOST, as_section, chosen

EVIL = "<script>alert(1)</script>\n\x1b[31m & more"


def flip(part, key, a, b, text="text"):
    found = {"prompt": text, "output_a": text, "output_b": text}
    return {"part": part, "id": str(key), "a": a, "b": b, **found}


def test_each_task_and_direction_has_its_turn():
    flips = [flip("domain", n, 0, 1) for n in range(50)]
    flips += [flip("domain", 50 + n, 1, 0) for n in range(2)]
    flips += [flip("general/a", n, 1, 0) for n in range(3)]
    flips += [flip("general/b", 0, 1, 0, text=None), flip("general/b", 1, 1, 0)]
    found = chosen(flips)
    assert len(found) == MOST
    kinds = [(one["part"], one["b"] > one["a"]) for one in found]
    # What was forgotten in general first; what has no texts not at all.
    assert kinds[:4] == [
        ("general/a", False), ("general/b", False), ("domain", False), ("domain", True)
    ]  # fmt: skip
    assert found[1]["id"] == "1"
    assert kinds.count(("domain", True)) == 4
    assert chosen(flips[:4]) == flips[:4]


def test_texts_of_others_stand_there_as_they_are():
    text = as_section([flip("domain", EVIL, 1, 0, text=EVIL)], "base model", EVIL, EVIL)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n\\x1b[31m &amp; more" in text
    assert "Items that score lower now (lost): 1; higher (won): 0." in text
    counted = as_section([flip("domain", 1, 1, 0, text=None)], "a", "b", "talr compare a b")
    assert "<article" not in counted  # an item without its texts is no example
    assert "(lost): 1; higher (won): 0. All of them: talr compare a b<" in counted
    blank = as_section([flip("domain", 1, 1, 0, text="\n \u200b\n")], "a", "b", "c")
    assert blank.count("(blank)") == 3
