"""Verdicts on studies whose truth is known: without an effect they are rarely wrong."""

import pytest
from scripts_loaded import loaded

NO_EFFECT = ("flat", "same", "slower")
LEVEL = 0.05


@pytest.fixture(scope="module")
def script():
    return loaded("simulate_study")


def rates(script, world, study, studies):
    """{claim: (share that holds, share that does not)}."""
    counts = script.verdicts(script.WORLDS[world], study, studies)
    return {
        claim: (of["holds"] / studies, of["does not hold"] / studies)
        for claim, of in counts.items()
    }


@pytest.mark.parametrize("world", NO_EFFECT)
def test_without_an_effect_few_studies_come_to_a_verdict(script, world):
    """Two seeds, runs that deviate: of the rules that took runs for methods 15 of 60 were wrong."""
    found = rates(script, world, script.Study(2, 60, [60, 40], 0.04), 20)
    for claim, (holds, denied) in found.items():
        assert holds + denied <= 0.1, claim  # 2 of 20


def test_one_seed_gives_no_verdict(script):
    for world in script.WORLDS:
        found = rates(script, world, script.Study(1, 60, [60, 40], 0.02), 2)
        assert all(each == (0, 0) for each in found.values())


def test_a_large_true_effect_is_found(script):
    found = rates(script, "published", script.Study(4, 1000, [500, 500], 0.01), 3)
    assert found[1] == (1.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("world", NO_EFFECT)
@pytest.mark.parametrize(
    ("seeds", "deviation"), [(1, 0.03), (2, 0.0), (2, 0.03), (3, 0.03), (4, 0.0), (4, 0.03)]
)
def test_false_verdicts_keep_to_the_level(script, world, deviation, seeds):
    found = rates(script, world, script.Study(seeds, 100, [100, 60], deviation), 200)
    print(world, seeds, deviation, found)
    for claim, each in found.items():
        assert max(each) <= LEVEL, claim


@pytest.mark.slow
@pytest.mark.parametrize("world", ["flat", "same"])
def test_a_second_seed_of_one_setting_gives_no_false_verdicts(script, world):
    """All that is known of the deviation is from two runs."""
    found = rates(script, world, script.Study(2, 100, [100, 60], 0.03, repeated=1), 200)
    for claim, each in found.items():
        assert max(each) <= LEVEL, claim


@pytest.mark.slow
def test_the_power_under_the_published_effects(script):
    """Printed; more seeds find more."""
    found = {}
    for seeds in (2, 4):
        found[seeds] = rates(
            script, "published", script.Study(seeds, 1047, [541, 500, 164], 0.02), 30
        )
        print(f"{seeds} seeds:", found[seeds])
        assert all(denied <= LEVEL for _, denied in found[seeds].values())
    assert found[4][1][0] >= 0.8
    assert found[4][3][0] >= found[2][3][0]
