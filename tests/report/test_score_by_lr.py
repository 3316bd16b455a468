"""Every setting is a point at its learning rate, with the error that belongs to it."""

import numpy
import pytest
from synthetic_study import BASE, METHODS, results, study

from talr_cli.report.figures.score_by_lr import draw_score_by_lr
from talr_cli.statistics.groups import comparable


def panels(runs):
    (group,) = comparable(runs)
    return draw_score_by_lr(group).axes


def bars(axes):
    """{label: (lr, score, error)[N]} as drawn."""
    found = {}
    for bar in axes.containers:
        lr, score = numpy.array(bar.lines[0].get_xydata()).T
        ends = numpy.array([segment[:, 1] for segment in bar.lines[2][0].get_segments()])
        found[bar.get_label()] = lr, score, (ends[:, 1] - ends[:, 0]) / 2
    return found


def test_one_run_shows_its_standard_error():
    domain, general = panels([BASE, results("sft", 1e-5)])
    lr, score, error = bars(general)["sft"]
    assert lr == pytest.approx([1e-5])
    assert (score, error) == (pytest.approx([0.4]), pytest.approx([0.04]))
    levels = [line.get_ydata()[0] for axes in (domain, general) for line in axes.lines[:1]]
    assert levels == [0.21, 0.46]


def test_several_seeds_show_their_mean_and_deviation():
    scores = [0.3, 0.34, 0.35]
    runs = [results("sft", seed=n, domain=(score, 0.5)) for n, score in enumerate(scores)]
    _, score, error = bars(panels(runs)[0])["sft"]
    assert score == pytest.approx([numpy.mean(scores)])
    assert error == pytest.approx([numpy.std(scores, ddof=1)])


def test_all_settings_are_drawn_and_methods_do_not_hide_each_other():
    runs = study(200, seeds=4)
    for axes in panels(runs):
        drawn = bars(axes)
        assert len(drawn) == len({one["run"]["method"] for one in runs}) - 1
        assert sum(len(lr) for lr, _, _ in drawn.values()) == 50  # settings of four seeds each
        places = sorted(place for lr, _, _ in drawn.values() for place in lr)
        assert min(numpy.diff(numpy.log10(places))) > 0.005
        # Beside its own rate, never nearer to another.
        rates = numpy.array(sorted({one["run"]["lr"] for one in runs[1:]}))
        for label, (lr, _, _) in drawn.items():
            nearest = rates[abs(numpy.log10(lr)[:, None] - numpy.log10(rates)).argmin(axis=1)]
            assert len(set(nearest)) == len(lr), label


def test_settings_of_one_name_are_two_lines_of_one_look_with_one_name():
    runs = [
        results("sft", lr, domain=(score, 0.03), id=f"{setting}{lr}") | {"setting": setting}
        for setting, scores in (("one", (0.3, 0.4)), ("ten", (0.5, 0.6)))
        for lr, score in zip((1e-6, 1e-5), scores, strict=True)
    ]
    domain = panels([BASE, *runs])[0]
    lines = [bar.lines[0] for bar in domain.containers]
    assert [line.get_ydata().tolist() for line in lines] == [[0.3, 0.4], [0.5, 0.6]]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 1
    assert domain.get_legend_handles_labels()[1].count("sft") == 1


def test_a_score_that_no_run_has_has_no_panel():
    runs = [results("sft", general=None), results("talr", 1e-5, general=None)]
    (axes,) = panels([BASE, *runs])
    assert set(bars(axes)) == {"sft", "talr"}


def test_runs_without_a_rate_have_no_place():
    (group,) = comparable([BASE, results("someones-checkpoint", None)])
    assert draw_score_by_lr(group) is None


def test_a_run_of_another_measure_is_not_drawn():
    runs = [results("sft", lr, id=str(lr)) for lr in (1e-6, 5e-6, 1e-5)]
    runs[1]["general"]["suite"] = "full"
    for axes in panels([BASE, *runs]):
        (lr, _, _) = bars(axes)["sft"]
        assert lr == pytest.approx([1e-6, 1e-5])


def test_a_legend_names_every_method_once():
    runs = study(36, methods=METHODS[:3], seeds=3)
    (group,) = comparable(runs)
    figure = draw_score_by_lr(group)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["base model", "sft", "talr", "flow"]
