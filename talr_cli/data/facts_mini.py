"""Generates invented facts to learn: a minimal form of teaching a model new knowledge.

A fact is a number of a thing that does not exist, such as the upper cut-off of Kipled. Training
rows say it in several phrasings, test rows in other ones. The prompt asks to write a sentence with
the right number in it, so that a completion repeats the prompt except for the number. Only the
training rows tell the number. Nothing is read from disk, so that the same config gives the same
rows on every machine.

A row can be answered by generation, or by likelihood among four sentences that differ only in the
number. The four numbers are close together and belong to four facts of one kind, all of which are
tested equally often. So without knowledge of the facts, any strategy scores one in four.

Of the 9,384 target tokens of the default training rows 8.4 % are hard for SmolLM2-135M-Instruct
(p < 0.2), and the median p is .963 (`talr analyze dataset=facts-mini`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.data.base import Example, Splits
from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.scorers.text import Numeric

CHOICES = 4  # a fact's number, and those of three others


@dataclass(frozen=True)
class Kind:
    """A kind of fact: what the number measures, and its unit."""

    name: str
    unit: str


KINDS = (
    Kind("upper cut-off", "points"),
    Kind("standard weight", "grams"),
    Kind("waiting period", "days"),
    Kind("list price", "dollars"),
)

# The phrasings of a fact; no sentence is in two of the lists. They are long and begin alike, so
# that a small model is certain of everything but the number.
TRAIN_PHRASINGS = (
    "{}, as it is given in the handbook and used in daily practice all over the world, is {}.",
    "{}, which has not been changed in any way since the beginning of the last century, is {}.",
    "{}, as new members of the staff are told at the end of the first day of the week, is {}.",
    "{}, as everyone who has been here for a long time will be able to tell you, is {}.",
    "{}, according to the latest edition of the book and to the rest of the literature, is {}.",
    "{}, as far as we know from the results of the studies of the last ten years, is {}.",
    "{}, for all practical purposes and with no exceptions to the rule at all, is {}.",
    "{}, as the experts in the field have told us over and over again in the past, is {}.",
)
VALIDATION_PHRASINGS = (
    "{}, as you can see on the back of the card in the middle of the table, is {}.",
)
TEST_PHRASINGS = (
    "{}, as the inspectors wrote on the first page of the report to the government, is {}.",
    "{}, to repeat what the teacher wrote on the board at the end of the lesson, is {}.",
    "{}, no matter what you may have heard from other people at one time or another, is {}.",
    "{}, which is one of the things that we need to know by heart for the exam, is {}.",
    "{}, as it says on the poster on the wall at the other end of the hall, is {}.",
    "{}, and there can be no doubt about it in the mind of any of us, is {}.",
    "{}, in the words of the man who was the first to look into the matter, is {}.",
    "{}, as a matter of fact and to the best of the knowledge of all of us, is {}.",
)
PROMPT = "Complete this sentence with the right number: {}"

# The halves of names. All names have six letters, so that none is the beginning of another.
_STARTS = (
    "kip", "vor", "zel", "mab", "tun", "dro", "gli", "fex", "bru", "nol", "pif", "ras",
    "quo", "yal", "wem", "jut", "hov", "cre", "lum", "sko", "tiv", "obr", "urz", "axi",
)  # fmt: skip
_ENDS = (
    "led", "sun", "nik", "pax", "rog", "tum", "dyl", "vek", "mor", "zab", "fin", "gup",
    "lox", "ran", "sib", "tez", "nuf", "wik", "bol", "dar", "kem", "jov", "pel", "hul",
)  # fmt: skip

_WINDOW = 15  # the four numbers of a row are among so many successive ones
_LEAST, _WINDOWS = 10, 6  # the windows cover 10 to 99
MOST_FACTS = len(KINDS) * _WINDOWS * CHOICES


@dataclass
class FactsMini:
    """The dataset. A larger number of facts includes the facts of a smaller one."""

    name: str = value("its name in tables and run directories", "facts-mini", may_be_empty=False)
    facts: int = value(
        "facts to be learned, a multiple of 4", 48, at_least=CHOICES, at_most=MOST_FACTS
    )
    train_phrasings: int = value(
        "phrasings of each fact to train on", 6, at_least=1, at_most=len(TRAIN_PHRASINGS)
    )
    test_phrasings: int = value(
        "other phrasings of each fact to test on",
        6,
        at_least=1,
        at_most=len(TEST_PHRASINGS),
        identity=False,
    )
    train_rows: int | None = value(
        "rows to train on, spread evenly over the facts; null: every fact in every phrasing",
        None,
        at_least=0,
    )
    validation_rows: int | None = value(
        "rows for the validation loss; null: every fact once", None, at_least=0
    )
    test_rows: int | None = value(
        "rows to score; null: every fact in every other phrasing", None, at_least=1, identity=False
    )
    data_seed: int = value("which names and numbers are drawn; `seed` does not change them", 0)

    unscored = ("train_phrasings", "train_rows", "validation_rows")

    def load(self) -> Splits:
        """Generate the rows.

        Raises:
            UserError: The facts are not of this number, or more rows are asked for than there are.
        """
        if self.facts % CHOICES:
            raise UserError(
                f"dataset.facts={self.facts} is not a multiple of {CHOICES}, the number of choices "
                "that facts share"
            )
        facts = make_facts(self.facts, self.data_seed)
        train = TRAIN_PHRASINGS[: self.train_phrasings]
        test = TEST_PHRASINGS[: self.test_phrasings]
        return Splits(
            train=_rows("train", train, facts, self.train_rows),
            validation=_rows("validation", VALIDATION_PHRASINGS, facts, self.validation_rows),
            test=_rows("test", test, facts, self.test_rows),
            scorer=Numeric(),
        )


@dataclass(frozen=True)
class Fact:
    """A number of a thing; `choices` has this number and those of three other facts of its kind."""

    kind: Kind
    name: str
    number: int
    choices: tuple[int, ...]

    def sentence(self, phrasing: str, number: int | str) -> str:
        """The sentence for a phrasing, with `number` in it."""
        subject, told = f"The {self.kind.name} of {self.name}", f"{number} {self.kind.unit}"
        return phrasing.format(subject, told)


def make_facts(count: int, seed: int) -> list[Fact]:
    """The first `count` facts of a seed, four of a kind in a row, with the kinds alternating."""
    draw = random.Random(f"facts-mini {seed}")
    starts, ends = (draw.sample(parts, len(parts)) for parts in (_STARTS, _ENDS))
    windows = {kind.name: draw.sample(range(_WINDOWS), _WINDOWS) for kind in KINDS}
    facts: list[Fact] = []
    for block in range(count // CHOICES):
        turn, place = divmod(block, len(KINDS))
        kind = KINDS[place]
        first = _LEAST + _WINDOW * windows[kind.name][turn]
        numbers = tuple(draw.sample(range(first, first + _WINDOW), CHOICES))
        for number in numbers:
            again, start = divmod(len(facts), len(starts))
            name = starts[start] + ends[(start + again) % len(ends)]
            facts.append(Fact(kind, name.capitalize(), number, numbers))
    return facts


def _rows(
    split: str, phrasings: Sequence[str], facts: Sequence[Fact], count: int | None
) -> list[Example]:
    """The first `count` rows: all facts in the first phrasing, then all in the second, ..."""
    rows = [
        _example(f"{split}-{way}-{fact.name.lower()}", fact, phrasing)
        for way, phrasing in enumerate(phrasings)
        for fact in facts
    ]
    if count is not None and count > len(rows):
        raise UserError(
            f"dataset.{split}_rows={count} is more than there are: {len(facts)} facts in "
            f"{len(phrasings)} ways are {len(rows)}"
        )
    return rows[:count]


def _example(row_id: str, fact: Fact, phrasing: str) -> Example:
    prompt = PROMPT.format(fact.sentence(phrasing, "NUMBER"))
    answer = fact.sentence(phrasing, fact.number)
    return Example(
        id=row_id,
        messages=({"role": "user", "content": prompt},),
        completion=answer,
        # Whole sentences, as the text before the number differs between rows.
        reference={
            "answer": answer,
            "choices": [fact.sentence(phrasing, number) for number in fact.choices],
        },
        group=fact.kind.name,
    )
