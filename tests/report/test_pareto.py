"""The front against another way of finding it, and what may not be compared."""

import numpy
from synthetic_study import results

from talr_cli.report.pareto import pareto_front


def runs(points):
    return [results("sft", id=str(n), domain=(x, 0), general=(y, 0)) for n, (x, y) in points]


def test_the_front_is_the_running_maximum_from_the_right():
    generator = numpy.random.default_rng(0)
    for _ in range(50):
        # A coarse grid, so that scores and whole points occur twice.
        points = list(enumerate((generator.integers(0, 6, (25, 2)) / 6).tolist()))
        expected = []
        for number, (x, y) in points:
            right = [v for _, (u, v) in points if u > x]
            beside = [v for _, (u, v) in points if u == x]
            if y > max(right, default=-1) and y == max(beside):
                expected.append(str(number))
        front = pareto_front(runs(points))
        assert sorted(one["run"]["id"] for one in front) == sorted(expected)
        domain = [one["domain"]["score"] for one in front]
        assert domain == sorted(domain)


def test_the_base_model_can_beat_a_run():
    base = results("base", domain=(0.3, 0.03), general=(0.5, 0.03))
    harmed = results("sft", domain=(0.3, 0.03), general=(0.4, 0.03))
    assert pareto_front([harmed, base]) == [base]


def test_runs_measured_otherwise_beat_nobody():
    quick = results("sft", domain=(0.9, 0.1), general=(0.9, 0.1))
    quick["general"]["limit"] = 10
    full = results("talr")
    assert len(pareto_front([quick, full])) == 2


def test_a_run_without_both_scores_is_not_on_it():
    full, unknown = results("talr"), results("sft", domain=(None, None))
    assert pareto_front([results("sft", general=None), unknown, full]) == [full]
