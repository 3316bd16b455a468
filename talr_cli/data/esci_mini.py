"""Generates pairs of queries and products in the style of ESCI, with invented brands.

A query asks for a kind of product and for one to three of its brand, color and another trait. The
label follows from what the title offers, and the rationale says how. Words alone do not give the
label away: an irrelevant product may have the brand and color of the query, an accessory is a
complement or irrelevant depending on the query, and a product has two names ("sofa", "couch").
Nothing is read from disk, so that the same config gives the same rows on every machine.
Knows how a pair is made of two products; the products are in `esci_mini_products`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from talr_cli.data.base import Example, Splits
from talr_cli.data.esci import Pair, example
from talr_cli.data.esci_mini_products import BRANDS, COLORS, EXTRAS, FAMILIES, Family
from talr_cli.data.generated import each_once, in_turns
from talr_cli.data.splitting import hashed_split
from talr_cli.fields import value
from talr_cli.scorers.esci import LABELS, EsciScorer

_VALIDATION_SHARE, _TEST_SHARE = 0.1, 0.3  # of all queries that can be made
_MOST_DRAWS = 5_000


@dataclass(frozen=True)
class Product:
    """A product's name and its features, such as {"brand": "Kremmo", "color": "black"}."""

    name: str
    features: dict[str, str]

    def __str__(self) -> str:
        return "; ".join([self.name, *(f"{key} {one}" for key, one in self.features.items())])


@dataclass
class EsciMini:
    """The dataset. Labels and families of products alternate; no two splits share a query."""

    name: str = value("its name in tables and run directories", "esci-mini", may_be_empty=False)
    target: str = value(
        "what a completion holds: the rationale and the label, or the label only",
        "explanation",
        choices=("explanation", "label"),
    )
    train_rows: int = value("rows to train on", 160, at_least=0)
    validation_rows: int = value("rows for the validation loss", 32, at_least=0)
    test_rows: int = value("rows to score", 80, at_least=1, identity=False)
    data_seed: int = value("which pairs are drawn; `seed` does not change the data", 0)

    unscored = ("train_rows", "validation_rows")

    def load(self) -> Splits:
        """Generate the rows.

        Raises:
            UserError: More rows are asked for than there are.
        """
        return Splits(
            train=self._rows("train", self.train_rows),
            validation=self._rows("validation", self.validation_rows),
            test=self._rows("test", self.test_rows),
            scorer=EsciScorer(),
        )

    def _rows(self, split: str, count: int) -> list[Example]:
        """`count` rows, with families of products alternating, and within a family the labels."""
        streams = [
            (family.names[0], self._pairs(family, label, split))
            for family in FAMILIES
            for label in LABELS
        ]
        examples = []
        for name, index, made in in_turns(streams, f"{split}_rows", count, "pairs of a label"):
            row_id = f"{split}-{name.replace(' ', '-')}-{made.label.lower()}-{index}"
            pair = Pair(row_id, made.query, made.title, made.label)
            examples.append(example(pair, made.rationale, self.target))
        return examples

    def _pairs(self, family: Family, label: str, split: str) -> Iterator[GeneratedPair]:
        return each_once(
            lambda draw: _make_pair(draw, family, label),
            lambda made: made.query,
            lambda query: hashed_split(query, _VALIDATION_SHARE, _TEST_SHARE) == split,
            f"{self.data_seed} {family.names[0]} {label}",
            _MOST_DRAWS,
        )


@dataclass(frozen=True)
class GeneratedPair:
    """A query, the title of a product, their label, and the reason for it."""

    query: str
    title: str
    label: str
    rationale: str


def _make_pair(draw: random.Random, family: Family, label: str) -> GeneratedPair:
    wanted = _features(draw, family)
    named = draw.sample(list(wanted), draw.randint(1, len(wanted)))
    asked = Product(draw.choice(family.names), {key: wanted[key] for key in wanted if key in named})
    if label in ("Exact", "Substitute"):
        features = {**_features(draw, family), **asked.features}
        if label == "Substitute":
            for key in draw.sample(named, draw.choice([1, len(named)])):
                features[key] = draw.choice(
                    [one for one in _values(family)[key] if one != wanted[key]]
                )
        offered = Product(draw.choice(family.names), features)
    else:
        offered = _unsuitable_product(draw, family, label, wanted)
    query = " ".join([*asked.features.values(), asked.name]).lower()
    title = " ".join([*offered.features.values(), offered.name]).title()
    return GeneratedPair(
        query,
        f"{title}, {draw.choice(EXTRAS)}",
        label,
        f"Asked for: {asked}.\nOffered: {offered}.\n{_judgement(asked, offered, label)}",
    )


def _unsuitable_product(
    draw: random.Random, family: Family, label: str, wanted: dict[str, str]
) -> Product:
    """A product that the query does not ask for: a complement, or one of another aisle."""
    if label == "Complement":
        other, is_accessory = family, True
    else:
        other = draw.choice([one for one in FAMILIES if one.aisle != family.aisle])
        is_accessory = draw.random() < 0.5
    features = _features(draw, other)
    for key in ("brand", "color"):
        if draw.random() < 0.5:
            features[key] = wanted[key]
    if is_accessory:
        del features[other.trait]
    return Product(draw.choice(other.accessories if is_accessory else other.names), features)


def _judgement(asked: Product, offered: Product, label: str) -> str:
    if label == "Exact":
        return "It is the same kind of product and all is as asked for."
    if label == "Substitute":
        others = [key for key, one in asked.features.items() if offered.features[key] != one]
        return f"It is the same kind of product with another {' and another '.join(others)}."
    if label == "Complement":
        return f"It is another kind of product, used with {asked.name}."
    return f"It is another kind of product, of no use with {asked.name}."


def _features(draw: random.Random, family: Family) -> dict[str, str]:
    return {key: draw.choice(values) for key, values in _values(family).items()}


def _values(family: Family) -> dict[str, tuple[str, ...]]:
    return {"brand": BRANDS, "color": COLORS, family.trait: family.values}
