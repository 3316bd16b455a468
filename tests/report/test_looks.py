"""A method keeps its look whatever else is in the study, and all eyes tell methods apart."""

import itertools
from pathlib import Path

import numpy
import pytest
from matplotlib.text import Text
from synthetic_study import results, study, write_study

from talr_cli.config.commands import conf_dir
from talr_cli.report.figures.curves import draw_curves
from talr_cli.report.figures.looks import KNOWN, look_of, method_looks, ordered, shades, wrapped
from talr_cli.report.figures.matched import draw_matched
from talr_cli.report.figures.score_by_lr import draw_score_by_lr
from talr_cli.report.figures.tradeoff import draw_tradeoff
from talr_cli.runs.study import load_runs
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.matched import Matched

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


LONG = [
    "sft",
    "averaging",
    "a-method-of-mine_with-a-name-of-many-parts-v12",
    "talr+lora+kl+replay+ema",
]


def cut_off(figure):
    """The texts of a picture that do not lie in it as a whole; numbers at the axes aside."""
    figure.canvas.draw()
    ticks = {
        label
        for axes in figure.axes
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels())
    }
    shown = [
        one
        for one in {*figure.findobj(Text)} - ticks
        if one.get_visible() and one.get_text().strip()
    ]
    assert shown
    width, height = figure.bbox.size
    return [
        one.get_text()
        for one in shown
        if (box := Text.get_window_extent(one)).x0 < -1
        or box.y0 < -1
        or box.x1 > width + 1
        or box.y1 > height + 1
    ]


def test_no_text_is_cut_off_however_long_the_names(tmp_path):
    names = {"model": "a-model-" * 8 + "it", "dataset": "tickets-" * 8}
    runs = [one | {"run": one["run"] | names} for one in study(8, methods=LONG)]
    write_study(tmp_path, runs, steps=4)
    by_path = load_runs(tmp_path, "s")
    compared = [Matched(name, 0.5, 0.4, 0.4, -0.1, 0.1, 1.0, "", False) for name in LONG]
    drawn = [draw_matched(compared, "a model on a dataset")]
    for group in comparable([*by_path.values()]):
        drawn += draw_tradeoff(group), draw_score_by_lr(group)
        drawn += draw_curves(group, by_path).values()
    assert len(drawn) >= 6
    assert not [text for figure in drawn for text in cut_off(figure)]


def test_names_are_broken_between_their_parts_and_rates_are_not():
    assert wrapped("talr+lora+kl+replay+ema+finch") == "talr+lora+kl+replay+ema+\nfinch"
    assert wrapped("a-name-of-many_parts, lr 2e-4", 28) == "a-name-of-many_parts, lr\n2e-4"
    assert wrapped("x" * 30, 20) == "x" * 20 + "\n" + "x" * 10
