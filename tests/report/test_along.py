"""Scores against steps: every training that has points is drawn from the base model to its end."""

from synthetic_study import results

from talr_cli.report.figures.along import draw_along
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.pairs import name_of


def taken(end, share, steps, domain):
    """What was taken of the training `end` after this share of its steps."""
    one = results("sft", lr=end["run"]["lr"], domain=(domain, 0.03), id=f"point{share}")
    one["training"]["steps"] = steps
    one["weights"]["taken"] = {"at": share, "of": name_of(end)}
    return one


def study():
    ends = [results("sft", lr=lr, domain=(0.6, 0.02), id=f"end{lr}") for lr in (1e-5, 1e-4)]
    for end in ends:
        end["training"]["steps"] = 100
    points = [taken(ends[0], 0.5, 50, 0.5), taken(ends[0], 0.25, 25, 0.4)]
    return [results("base", domain=(0.3, 0.02)), *ends, *points]


def test_a_line_goes_from_the_base_through_the_points_to_the_end():
    (group,) = comparable(study())
    domain, general, drift = draw_along(group).axes[:3]
    (line,) = (one for one in domain.get_lines() if len(one.get_xdata()) == 4)
    assert line.get_xydata().tolist() == [[0, 0.3], [25, 0.4], [50, 0.5], [100, 0.6]]
    bars = domain.collections[0].get_segments()
    assert [round(float(top - bottom) / 2, 6) for (_, bottom), (_, top) in bars] == [
        *(0.02, 0.03, 0.03, 0.02)
    ]
    (line,) = (one for one in drift.get_lines() if len(one.get_xdata()) == 4)
    assert line.get_ydata().tolist() == [0.0, 0.01, 0.01, 0.01]
    assert len(general.get_lines()) > 1


def test_seeds_are_averaged_with_their_deviation_and_rates_written_as_everywhere():
    other = results("sft", lr=1e-5, seed=1, domain=(0.8, 0.02), id="again")
    other["training"]["steps"] = 100
    point = taken(other, 0.5, 50, 0.7)
    point["run"]["seed"] = 1
    (group,) = comparable([*study(), other, point])
    figure = draw_along(group)
    (line,) = (one for one in figure.axes[0].get_lines() if len(one.get_xdata()) == 3)
    assert line.get_xydata().round(9).tolist() == [[0, 0.3], [50, 0.6], [100, 0.7]]
    bars = figure.axes[0].collections[0].get_segments()
    half = [round(float(top - bottom) / 2, 6) for (_, bottom), (_, top) in bars]
    assert half == [0.02, round(0.02**0.5, 6), round(0.02**0.5, 6)]
    (label,) = (text.get_text() for text in figure.legends[0].get_texts())
    assert label == "sft, lr 1e-5"


def test_without_points_there_is_no_picture():
    (group,) = comparable(one for one in study() if "taken" not in (one["weights"] or {}))
    assert draw_along(group) is None
