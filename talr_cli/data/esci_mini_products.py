"""The products of esci-mini: data only. To add a kind of product, add an entry to FAMILIES.

The rows depend on the order of the entries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of product.

    Products of the same aisle may be used together, products of different aisles are not.

    Attributes:
        names: Two synonyms, of which queries and titles have either.
        trait: A feature besides brand and color.
        values: The values of the trait.
        accessories: Products that are used with it.
    """

    aisle: str
    names: tuple[str, str]
    trait: str
    values: tuple[str, ...]
    accessories: tuple[str, ...]


BRANDS = (
    "Quellan", "Brastova", "Tummeri", "Ozelka", "Vantrio", "Pellidor", "Kremmo", "Sundrelle",
    "Ardwix", "Fiorvane",
)  # fmt: skip
COLORS = ("black", "white", "red", "blue", "green", "gray", "yellow", "purple")
EXTRAS = ("Gift Box", "New Model", "2 Year Warranty", "Plain Packaging", "Ships Today")

FAMILIES = (
    Family(
        aisle="kitchen",
        names=("electric kettle", "water boiler"),
        trait="size",
        values=("1 liter", "1.5 liter", "2 liter"),
        accessories=("tea infuser", "kettle descaler", "teapot tray"),
    ),
    Family(
        aisle="electronics",
        names=("wireless headphones", "bluetooth headphones"),
        trait="fit",
        values=("over-ear", "on-ear", "in-ear"),
        accessories=("headphone stand", "ear pad set", "headphone pouch"),
    ),
    Family(
        aisle="furniture",
        names=("sofa", "couch"),
        trait="seats",
        values=("two-seat", "three-seat", "four-seat"),
        accessories=("sofa cover", "throw pillow", "armrest tray"),
    ),
    Family(
        aisle="outdoors",
        names=("backpack", "rucksack"),
        trait="volume",
        values=("20 liter", "30 liter", "45 liter"),
        accessories=("backpack rain cover", "packing cube set", "luggage tag"),
    ),
    Family(
        aisle="sport",
        names=("running shoes", "jogging shoes"),
        trait="ground",
        values=("trail", "road", "track"),
        accessories=("shoelaces", "insoles", "shoe cleaner"),
    ),
    Family(
        aisle="kitchen",
        names=("frying pan", "skillet"),
        trait="width",
        values=("8 inch", "10 inch", "12 inch"),
        accessories=("pan lid", "spatula", "pan scraper"),
    ),
    Family(
        aisle="garden",
        names=("garden hose", "watering hose"),
        trait="length",
        values=("25 foot", "50 foot", "100 foot"),
        accessories=("hose reel", "spray nozzle", "hose connector"),
    ),
    Family(
        aisle="office",
        names=("notebook", "writing journal"),
        trait="ruling",
        values=("lined", "dotted", "blank"),
        accessories=("gel pen set", "pen loop", "bookmark set"),
    ),
    Family(
        aisle="pets",
        names=("dog leash", "dog lead"),
        trait="length",
        values=("4 foot", "6 foot", "10 foot"),
        accessories=("dog collar", "dog harness", "dog name tag"),
    ),
    Family(
        aisle="music",
        names=("acoustic guitar", "folk guitar"),
        trait="size",
        values=("full-size", "half-size", "quarter-size"),
        accessories=("guitar strap", "guitar picks", "capo"),
    ),
    Family(
        aisle="sport",
        names=("yoga mat", "exercise mat"),
        trait="thickness",
        values=("4 mm", "6 mm", "10 mm"),
        accessories=("yoga block", "mat strap", "mat cleaner"),
    ),
    Family(
        aisle="outdoors",
        names=("camping tent", "hiking tent"),
        trait="room",
        values=("two-person", "four-person", "six-person"),
        accessories=("tent pegs", "ground sheet", "tent lantern"),
    ),
    Family(
        aisle="electronics",
        names=("phone case", "phone cover"),
        trait="material",
        values=("leather", "silicone", "plastic"),
        accessories=("screen protector", "phone strap", "phone charger"),
    ),
    Family(
        aisle="furniture",
        names=("desk lamp", "reading lamp"),
        trait="brightness",
        values=("400 lumen", "600 lumen", "800 lumen"),
        accessories=("lamp bulb", "lamp clamp", "lamp timer"),
    ),
    Family(
        aisle="baby",
        names=("stroller", "pushchair"),
        trait="form",
        values=("folding", "double", "jogger"),
        accessories=("stroller footmuff", "stroller cup holder", "stroller sunshade"),
    ),
    Family(
        aisle="car",
        names=("car battery", "starter battery"),
        trait="capacity",
        values=("45 amp-hour", "60 amp-hour", "75 amp-hour"),
        accessories=("jumper cables", "battery tester", "terminal brush"),
    ),
)
