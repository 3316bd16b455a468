"""The picture shows every run once, and stays legible from one run to hundreds."""

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy
import pytest
import synthetic_study
from matplotlib.collections import PathCollection
from matplotlib.text import Annotation
from PIL import Image

from talr_cli.printable import rate_text
from talr_cli.report.figures.looks import look_of, save
from talr_cli.report.figures.tradeoff import _text_box, draw_tradeoff
from talr_cli.statistics.groups import comparable

METHODS = ["sft", "talr", "flow", "dft", "eaft", "l2"]


def results(method, lr, domain, general, seed=0):
    return synthetic_study.results(method, lr, seed, (domain, 0.02), (general, 0.02))


BASE = results("base", None, 0.21, 0.46, seed=None)


def study(runs):
    generator = numpy.random.default_rng(0)
    grid = itertools.cycle(itertools.product(METHODS, [1e-6, 5e-6, 1e-5, 5e-5]))
    tuned = []
    for seed, (method, lr) in enumerate(itertools.islice(grid, runs)):
        domain = 0.2 + 0.2 * generator.random()
        tuned.append(results(method, lr, domain, 0.6 - 0.6 * domain, seed))
    return [BASE, *tuned]


def drawn(runs):
    (group,) = comparable(runs)
    return draw_tradeoff(group).axes[0]


@pytest.mark.parametrize("runs", [0, 1, 200])
def test_files_are_pictures_of_something(tmp_path, runs):
    (group,) = comparable(study(runs))
    png, svg = save(draw_tradeoff(group), tmp_path, "tradeoff")
    assert (png.name, svg.name) == ("tradeoff.png", "tradeoff.svg")
    pixels = numpy.asarray(Image.open(png).convert("L"))
    assert pixels.shape[1] > 1000
    assert 0.002 < (pixels < 200).mean() < 0.5
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


@pytest.mark.parametrize("runs", [1, 12, 60])
def test_every_setting_is_a_point_with_error_bars(runs):
    """In a study of 60 runs a method at a rate has several seeds, whose mean is drawn."""
    axes = drawn(study(runs))
    by_setting = {}
    for one in study(runs):
        scores = one["domain"]["score"], one["general"]["score"]
        by_setting.setdefault((one["run"]["method"], one["run"]["lr"]), []).append(scores)
    shown = sorted(tuple(map(float, bar.lines[0].get_xydata()[0])) for bar in axes.containers)
    expected = sorted(tuple(numpy.mean(each, axis=0)) for each in by_setting.values())
    assert numpy.array(shown) == pytest.approx(numpy.array(expected))
    assert all(bar.has_xerr and bar.has_yerr for bar in axes.containers)
    # Of several seeds the bars have their deviation, and each seed is a dot.
    (several,) = {len(each) > 1 for (_, lr), each in by_setting.items() if lr}
    dots = [len(one.get_offsets()) for one in axes.collections if isinstance(one, PathCollection)]
    assert sum(dots) == (runs if several else 0)


def test_the_rates_of_a_method_are_joined_in_their_order():
    rates = [1e-6, 5e-6, 1e-5, 5e-5]
    places = {lr: (0.25 + 0.02 * n, 0.45 - 0.01 * n) for n, lr in enumerate(rates)}
    runs = [results("sft", lr, *places[lr]) for lr in (5e-5, 1e-6, 1e-5, 5e-6)]
    runs += [results("sft", lr, places[lr][0] + 0.02, places[lr][1], seed=1) for lr in rates]
    lines = [line.get_xydata() for line in drawn([BASE, *runs]).get_lines()]
    expected = [(x + 0.01, y) for x, y in places.values()]
    assert [line for line in lines if len(line) == 4 and numpy.allclose(line, expected)]


def test_rates_are_joined_within_one_setting_only():
    """Runs of one epoch and of ten have the same name, and are two lines."""
    runs = []
    for setting, down in (("one", 0.0), ("ten", 0.1)):
        for lr, domain, general in ((1e-6, 0.25, 0.45), (1e-5, 0.3, 0.4)):
            runs.append(results("sft", lr, domain, general - down) | {"setting": setting})
    lines = [tuple(map(tuple, line.get_xydata())) for line in drawn([BASE, *runs]).get_lines()]
    assert ((0.25, 0.45), (0.3, 0.4)) in lines
    assert ((0.25, 0.35), (0.3, 0.3)) in [
        tuple((round(x, 9), round(y, 9)) for x, y in line) for line in lines
    ]
    assert not [line for line in lines if len(line) == 4]


@pytest.mark.parametrize("spread", [0.003, 0.02])
def test_labels_of_twelve_runs_do_not_overlap(spread):
    cases = itertools.product(METHODS[:3], [1e-6, 5e-6, 1e-5, 5e-5])
    runs = [
        results(method, lr, 0.25 + spread * i, 0.45 - spread * i)
        for i, (method, lr) in enumerate(cases)
    ]
    axes = drawn([BASE, *runs])
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    assert {label.get_text() for label in labels} == {
        f"{one['run']['method']} {rate_text(one['run']['lr'])}" for one in runs
    }
    boxes = [_text_box(label) for label in labels]
    overlapping = [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not overlapping
    frame = axes.get_window_extent().padded(-3)  # nor touch it
    assert all(frame.contains(*corner) for box in boxes for corner in box.corners())


def test_a_label_does_not_touch_the_frame():
    """The name of the point that is farthest to the right has no room there."""
    for domain in (0.5, 0.52, 0.54, 0.56, 0.58, 0.6):
        runs = [results("sft", lr, x, 0.4) for lr, x in ((1e-3, 0.3), (1e-2, domain))]
        axes = drawn([BASE, *runs])
        frame = axes.get_window_extent().padded(-3)
        for label in axes.texts:
            assert all(frame.contains(*one) for one in _text_box(label).corners())


def test_many_runs_have_no_labels_but_a_legend():
    axes = drawn(study(200))
    assert not axes.texts
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert legend[0] == "base model"
    assert set(METHODS) < set(legend)
    assert "lr 1e-6" in legend


def test_methods_have_their_looks_and_rates_a_size():
    axes = drawn([BASE, *(results(m, lr, 0.3, 0.4) for m in METHODS for lr in (1e-6, 1e-5))])
    points = [bar.lines[0] for bar in axes.containers[1:]]
    shown = {(point.get_marker(), point.get_color()) for point in points}
    assert shown == {(look_of(method).marker, look_of(method).color) for method in METHODS}
    assert len({point.get_markersize() for point in points}) == 2


def test_runs_without_both_scores_are_left_out(caplog):
    halved = results("talr", 1e-6, 0.3, 0.4)
    halved["general"] = None
    assert [draw_tradeoff(one) for one in comparable([halved])] == [None]
    assert "no run has both scores" in caplog.text
    assert len(drawn([BASE, halved]).containers) == 1


def test_a_run_without_lr_and_one_without_stderr():
    odd = results("merge", None, 0.3, 0.4)
    odd["domain"]["stderr"] = None
    assert len(drawn([BASE, odd, results("sft", 1e-6, 0.3, 0.4)]).containers) == 3


def test_plotting_changes_no_global_state_of_matplotlib(tmp_path):
    before = dict(matplotlib.rcParams)
    (group,) = comparable(study(3))
    save(draw_tradeoff(group), tmp_path, "tradeoff")
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, talr_cli.report.figures.tradeoff; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_is_a_path_from_the_base_through_its_points():
    runs = [BASE]
    for share, domain, general in ((0.25, 0.25, 0.45), (0.5, 0.3, 0.4), (1, 0.35, 0.3)):
        one = results("sft", 1e-5, domain, general)
        one["weights"] = {"taken": {"at": share, "of": "sft-lr1e-5-s0-00000000"}}
        if share == 1:
            one["weights"] = {}
        runs.append(one)
    axes = drawn(runs[:1] + runs[:0:-1])  # in no order
    lines = [tuple(map(tuple, line.get_xydata())) for line in axes.get_lines()]
    assert ((0.21, 0.46), (0.25, 0.45), (0.3, 0.4), (0.35, 0.3)) in lines
    assert ((0.25, 0.45), (0.3, 0.4)) in lines  # a dot each
    assert len([text for text in axes.texts if text.get_text()]) == 1  # the end has the name
