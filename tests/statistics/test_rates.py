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
    other = scored("talr", [1] * 40, {"words": [1] * 40}, lr=1e-4, id="talr")
    told = line(sft(1e-6, 30, 38), sft(5e-6, 1, 1), sft(2e-5, 30, 18), other)
    # Of 40 items 20 were lost: no noise. As if 0.5 of one more were won and 0.5 lost.
    half = 1.96 * (0.25 / 39 + 1 / 40 / 39) ** 0.5
    domain = 1.96 * (1 / 40 / 39) ** 0.5
    assert told == (
        "sft at lr 1e-6 against 2e-5: "
        f"domain +0.000 [-{domain:.3f}, +{domain:.3f}] ≈ 0, "
        f"general +0.500 [+{0.5 - half:.3f}, +{0.5 + half:.3f}]; of these checkpoints"
    )


def test_seeds_are_averaged_and_make_it_speak_of_rates():
    """Of the first seed alone the gain would be sure."""
    runs = [sft(1e-6, 20, 38), sft(1e-6, 20, 18, seed=1), sft(2e-5, 30, 18)]
    told = line(*runs, sft(2e-5, 30, 18, seed=1))
    assert "general +0.250 [" in told
    assert told.endswith("≈ 0")


def test_without_two_rates_there_is_nothing_to_say():
    assert line(sft(1e-6, 30, 38), sft(1e-6, 20, 38, seed=1)) == ""
    unknown = sft(2e-5, 30, 18)
    unknown["domain"]["items"] = None
    assert line(sft(1e-6, 30, 38), unknown) == ""


def test_a_point_along_a_training_is_no_rate_of_its_own():
    early = sft(2e-5, 10, 38)
    early["weights"]["taken"] = {"at": 0.5, "of": "sft-lr2e-5-s0"}
    assert line(sft(1e-6, 30, 38), early) == ""


def test_a_rate_that_is_two_settings_is_not_one_of_them():
    """The same seed twice: with other epochs, say. Neither is sft at 2e-5."""
    twins = [sft(2e-5, 30, 18), sft(2e-5, 1, 1)]
    assert line(sft(1e-6, 30, 38), *twins) == ""
    assert "1e-6 against 5e-6" in line(sft(1e-6, 30, 38), sft(5e-6, 1, 1), *twins)
