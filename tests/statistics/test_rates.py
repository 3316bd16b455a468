"""What sft's smallest rate does against its largest, in a line."""

from synthetic_study import scored

from talr_cli.statistics.groups import comparable
from talr_cli.statistics.rates import rates_line


def sft(lr, domain, general, **more):
    rows = [[number < right for number in range(40)] for right in (domain, general)]
    return scored("sft", rows[0], {"words": rows[1]}, lr=lr, id=f"{lr:g}"[:8], **more)


def line(*runs):
    (group,) = comparable(runs)
    return rates_line(group)


def test_the_ends_are_compared_item_by_item():
    told = line(sft(1e-6, 30, 38), sft(5e-6, 1, 1), sft(2e-5, 30, 18), sft(1e-6, 0, 0, seed=1))
    assert told.startswith("sft at lr 1e-6 against 2e-5: domain +0.000 [+0.000, +0.000] ≈ 0")
    assert "general +0.500 [+0." in told
    assert told.endswith("]")  # of 40 items 20 were lost: no noise


def test_without_two_rates_there_is_nothing_to_say():
    assert line(sft(1e-6, 30, 38), sft(1e-6, 20, 38, seed=1)) == ""


def test_a_point_along_a_training_is_no_rate_of_its_own():
    early = sft(2e-5, 10, 38)
    early["weights"]["taken"] = {"at": 0.5, "of": "sft-lr2e-5-s0"}
    assert line(sft(1e-6, 30, 38), early) == ""
