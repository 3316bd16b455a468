"""Generated query-product pairs in the manner of ESCI, all of them ours: brands, titles, labels.

A query asks for a kind of product and for one to three of its brand, color and a trait. The label
follows from what the title offers, and the rationale says how. Words alone do not give it away: an
irrelevant product may have the brand and the color that are asked for, an accessory is a complement
or irrelevant by what the query is about, and a product has two names ("sofa", "couch").
Nothing is read from disk: the same config gives the same rows on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from talr_cli.data.base import Example, Splits, check_target
from talr_cli.data.esci import Pair, example
from talr_cli.data.generated import in_turns
from talr_cli.data.splitting import hashed_split
from talr_cli.scorers.esci import LABELS, EsciScorer

_VALIDATION_SHARE, _TEST_SHARE = 0.1, 0.3  # of all queries that can be made
_MOST_DRAWS = 5_000


@dataclass(frozen=True)
class Family:
    """A kind of product: its two names, a trait besides brand and color, what is used with it.

    Products of two families of one aisle may have a use together, those of two aisles have none.
    """

    aisle: str
    names: tuple[str, str]
    trait: str
    values: tuple[str, ...]
    accessories: tuple[str, ...]


@dataclass(frozen=True)
class Product:
    """A product's name and its features, such as {"brand": "Kremmo", "color": "black"}."""

    name: str
    features: dict[str, str]

    def __str__(self) -> str:
        return "; ".join([self.name, *(f"{key} {value}" for key, value in self.features.items())])


@dataclass
class EsciMini:
    """The dataset. The labels take turns, and so do the families; no two splits share a query."""

    name: str = "esci-mini"
    target: str = "explanation"  # explanation | label: the label only
    train_rows: int = 160
    validation_rows: int = 32
    test_rows: int = 80
    data_seed: int = 0

    def load(self) -> Splits:
        """Generate the rows.

        Raises:
            UserError: `target` is unknown, or more rows are asked for than there are.
        """
        check_target(self.target)
        return Splits(
            train=self._rows("train", self.train_rows),
            validation=self._rows("validation", self.validation_rows),
            test=self._rows("test", self.test_rows),
            scorer=EsciScorer(),
        )

    def _rows(self, split: str, count: int) -> list[Example]:
        streams = [
            (family.names[0], self._pairs(family, label, split))
            for family in FAMILIES
            for label in LABELS
        ]
        rows = []
        for name, index, made in in_turns(streams, f"{split}_rows", count, "pairs of a label"):
            query, title, label, rationale = made
            row_id = f"{split}-{name.replace(' ', '-')}-{label.lower()}-{index}"
            rows.append(example(Pair(row_id, query, title, label), rationale, self.target))
        return rows

    def _pairs(self, family: Family, label: str, split: str) -> Iterator[tuple[str, str, str, str]]:
        """(query, title, label, rationale) of the split, each query once."""
        draw = random.Random(f"{self.data_seed} {family.names[0]} {label}")
        seen = set()
        for _ in range(_MOST_DRAWS):
            query, title, rationale = _pair(draw, family, label)
            if query in seen:
                continue
            seen.add(query)
            if hashed_split(query, _VALIDATION_SHARE, _TEST_SHARE) == split:
                yield query, title, label, rationale


def _pair(draw: random.Random, family: Family, label: str) -> tuple[str, str, str]:
    wanted = _features(draw, family)
    named = draw.sample(list(wanted), draw.randint(1, len(wanted)))
    asked = Product(draw.choice(family.names), {key: wanted[key] for key in wanted if key in named})
    if label in ("Exact", "Substitute"):
        features = {**_features(draw, family), **asked.features}
        if label == "Substitute":
            for key in draw.sample(named, draw.choice([1, len(named)])):
                features[key] = draw.choice(
                    [value for value in _values(family)[key] if value != wanted[key]]
                )
        offered = Product(draw.choice(family.names), features)
    else:
        offered = _another(draw, family, label, wanted)
    query = " ".join([*asked.features.values(), asked.name]).lower()
    title = " ".join([*offered.features.values(), offered.name]).title()
    rationale = f"Asked for: {asked}.\nOffered: {offered}.\n{_judgement(asked, offered, label)}"
    return query, f"{title}, {draw.choice(_EXTRAS)}", rationale


def _another(draw: random.Random, family: Family, label: str, wanted: dict[str, str]) -> Product:
    """Not what is asked for: something used with it, or something of another aisle."""
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
        others = [key for key, value in asked.features.items() if offered.features[key] != value]
        return f"It is the same kind of product with another {' and another '.join(others)}."
    if label == "Complement":
        return f"It is another kind of product, used with {asked.name}."
    return f"It is another kind of product, of no use with {asked.name}."


def _features(draw: random.Random, family: Family) -> dict[str, str]:
    return {key: draw.choice(values) for key, values in _values(family).items()}


def _values(family: Family) -> dict[str, tuple[str, ...]]:
    return {"brand": BRANDS, "color": COLORS, family.trait: family.values}


BRANDS = (
    "Quellan", "Brastova", "Tummeri", "Ozelka", "Vantrio", "Pellidor", "Kremmo", "Sundrelle",
    "Ardwix", "Fiorvane",
)  # fmt: skip
COLORS = ("black", "white", "red", "blue", "green", "gray", "yellow", "purple")
_EXTRAS = ("Gift Box", "New Model", "2 Year Warranty", "Plain Packaging", "Ships Today")

FAMILIES = (
    Family(
        "kitchen",
        ("electric kettle", "water boiler"),
        "size",
        ("1 liter", "1.5 liter", "2 liter"),
        ("tea infuser", "kettle descaler", "teapot tray"),
    ),
    Family(
        "electronics",
        ("wireless headphones", "bluetooth headphones"),
        "fit",
        ("over-ear", "on-ear", "in-ear"),
        ("headphone stand", "ear pad set", "headphone pouch"),
    ),
    Family(
        "furniture",
        ("sofa", "couch"),
        "seats",
        ("two-seat", "three-seat", "four-seat"),
        ("sofa cover", "throw pillow", "armrest tray"),
    ),
    Family(
        "outdoors",
        ("backpack", "rucksack"),
        "volume",
        ("20 liter", "30 liter", "45 liter"),
        ("backpack rain cover", "packing cube set", "luggage tag"),
    ),
    Family(
        "sport",
        ("running shoes", "jogging shoes"),
        "ground",
        ("trail", "road", "track"),
        ("shoelaces", "insoles", "shoe cleaner"),
    ),
    Family(
        "kitchen",
        ("frying pan", "skillet"),
        "width",
        ("8 inch", "10 inch", "12 inch"),
        ("pan lid", "spatula", "pan scraper"),
    ),
    Family(
        "garden",
        ("garden hose", "watering hose"),
        "length",
        ("25 foot", "50 foot", "100 foot"),
        ("hose reel", "spray nozzle", "hose connector"),
    ),
    Family(
        "office",
        ("notebook", "writing journal"),
        "ruling",
        ("lined", "dotted", "blank"),
        ("gel pen set", "pen loop", "bookmark set"),
    ),
    Family(
        "pets",
        ("dog leash", "dog lead"),
        "length",
        ("4 foot", "6 foot", "10 foot"),
        ("dog collar", "dog harness", "dog name tag"),
    ),
    Family(
        "music",
        ("acoustic guitar", "folk guitar"),
        "size",
        ("full-size", "half-size", "quarter-size"),
        ("guitar strap", "guitar picks", "capo"),
    ),
    Family(
        "sport",
        ("yoga mat", "exercise mat"),
        "thickness",
        ("4 mm", "6 mm", "10 mm"),
        ("yoga block", "mat strap", "mat cleaner"),
    ),
    Family(
        "outdoors",
        ("camping tent", "hiking tent"),
        "room",
        ("two-person", "four-person", "six-person"),
        ("tent pegs", "ground sheet", "tent lantern"),
    ),
    Family(
        "electronics",
        ("phone case", "phone cover"),
        "material",
        ("leather", "silicone", "plastic"),
        ("screen protector", "phone strap", "phone charger"),
    ),
    Family(
        "furniture",
        ("desk lamp", "reading lamp"),
        "brightness",
        ("400 lumen", "600 lumen", "800 lumen"),
        ("lamp bulb", "lamp clamp", "lamp timer"),
    ),
    Family(
        "baby",
        ("stroller", "pushchair"),
        "form",
        ("folding", "double", "jogger"),
        ("stroller footmuff", "stroller cup holder", "stroller sunshade"),
    ),
    Family(
        "car",
        ("car battery", "starter battery"),
        "capacity",
        ("45 amp-hour", "60 amp-hour", "75 amp-hour"),
        ("jumper cables", "battery tester", "terminal brush"),
    ),
)
