"""A method keeps its look whatever else is in the study, and all eyes tell methods apart."""

import itertools
from pathlib import Path

import numpy
import pytest
from synthetic_study import results

from talr_cli.config.commands import conf_dir
from talr_cli.report.figures.looks import KNOWN, look_of, method_looks, ordered, shades

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as protanopes, deuteranopes and
# tritanopes see it.
EYES = {
    "usual": numpy.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(color, eyes):
    """CIELAB (D65) of a colour as these eyes see it."""
    rgb = numpy.array(color[:3])
    linear = numpy.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    linear = numpy.clip(EYES[eyes] @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = numpy.cbrt(to_xyz @ linear / numpy.array([0.9505, 1, 1.089]))
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other, eyes):
    return numpy.linalg.norm(seen(look_of(one).color, eyes) - seen(look_of(other).color, eyes))


def names():
    return [path.stem for path in sorted(Path(conf_dir(), "method").glob("*.yaml"))]


@pytest.mark.parametrize("eyes", EYES)
def test_sft_and_talr_are_far_apart(eyes):
    assert distance("sft", "talr", eyes) > 50


@pytest.mark.parametrize("eyes", EYES)
def test_methods_differ_in_colour_or_in_marker(eyes):
    for one, other in itertools.combinations({*names(), "mine", "yours"}, 2):
        same_shape = look_of(one).marker == look_of(other).marker
        assert not same_shape or distance(one, other, eyes) > 10, (one, other)
    assert {*names()} == {*KNOWN}


def test_a_method_keeps_its_look_when_others_come():
    few = [results("sft"), results("mine")]
    many = [*few, *(results(method) for method in ("a", "b", "talr", "zz", "l2"))]
    looks = method_looks(many)
    for label, look in method_looks(few).items():
        assert looks[label] == look
    assert look_of("mine") != look_of("mine2")
    assert ordered(looks) == ["sft", "talr", "l2", "a", "b", "mine", "zz"]


def test_averages_are_shades_of_one_colour():
    grey = [sum(look_of(f"averaging α={alpha}").color) for alpha in (0.25, 0.5, 0.75)]
    assert grey == sorted(grey, reverse=True)
    assert look_of("averaging α=0.5").color == pytest.approx(look_of("averaging").color)
    assert len({look_of(f"averaging α={alpha}").marker for alpha in (0.25, 0.5)}) == 1


def test_shades_go_from_light_to_dark_and_stay_visible_on_white():
    assert shades((0.1, 0.2, 0.3), 1) == [(0.1, 0.2, 0.3)]
    for count in (1, 2, 6):
        sums = [sum(shade) for shade in shades(look_of("flow").color, count)]
        assert sums == sorted(sums, reverse=True)
        assert max(sums) < 2.7
