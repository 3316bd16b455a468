"""The settings of one model and dataset by method and learning rate, for the tests of claims.

Knows which settings can be compared; does not know the claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from talr_cli.printable import rate_text
from talr_cli.statistics.contrasts import ONE_SIDED, Contrast, bonferroni
from talr_cli.statistics.groups import Group, comparable
from talr_cli.statistics.pairs import RunsByPath, has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, final_settings, unambiguous_settings
from talr_cli.statistics.settings import Part, Scores, scores_of


class NotTestable(Exception):  # noqa: N818
    """Why a claim cannot be tested with these runs."""


@dataclass(frozen=True)
class Pair:
    """The settings of a group that have both scores.

    Attributes:
        by_method: {method: {learning rate: setting}}.
        paths: {(method, learning rate): run directories}.
        others: {dataset: pairs} of the same model and base model, this one among them.
    """

    group: Group
    by_method: dict[str, dict[float, SeedGroup]]
    paths: dict[tuple[str, float], list[Path]]
    others: Mapping[str, list[Pair]]

    @property
    def dataset(self) -> str:
        """The dataset's plain name, which several groups may share."""
        return self.group.runs[0]["run"]["dataset"]

    @cached_property
    def scores(self) -> Scores:
        """The scores of the base model and of all settings, which `at` names."""
        base = next((one for one in self.group.runs if is_base(one) and has_both_scores(one)), None)
        settings = {
            at(method, lr): seeds
            for method, by_lr in self.by_method.items()
            for lr, seeds in by_lr.items()
        }
        return scores_of(settings, base, self.group.runs)

    def rates(self, method: str, least: int = 2) -> list[float]:
        """The learning rates of a method whose items are known, ascending.

        Raises:
            NotTestable: There are fewer than `least`.
        """
        trained = sorted(self.by_method.get(method, {}))
        left_out = self.scores.left_out
        rates = [lr for lr in trained if at(method, lr) not in left_out]
        if len(rates) < least:
            reasons = [left_out[at(method, lr)] for lr in trained if at(method, lr) in left_out]
            why = f": {reasons[0]}" if reasons else ""
            raise NotTestable(
                f"needs {least} learning rates of {method}, there are {len(rates)}{why}"
            )
        return rates

    def check_base(self) -> None:
        """Raise NotTestable if the base model's scores are not known."""
        if "base" not in self.scores.index:
            raise NotTestable(self.scores.left_out.get("base", "the base model was not scored"))

    def lead(self, part: Part, one: str, other: str) -> Contrast:
        """The score of a setting minus that of another."""
        return self.scores.contrast(part, {one: 1, other: -1})

    def between_runs(self) -> str:
        """The standard deviation between runs of one setting, in words."""
        known = {part: one for part, one in self.scores.run_variances.items() if one}
        if not known:
            return "unknown, as no setting has several seeds"
        source = next(iter(known.values())).source
        values = ", ".join(
            f"{part} {one.variance**0.5:.3f}" for part, one in known.items() if part != "both"
        )
        return f"{values}, from {source}"

    def gains(self, names: Sequence[str]) -> bool:
        """Whether one of these settings gained significantly on the domain (Bonferroni)."""
        leads = [self.lead("domain", name, "base") for name in names]
        # With one seed per setting, the test is about these checkpoints.
        known = [replace(one, run_variance=one.run_variance or 0.0) for one in leads]
        return bonferroni([one.p_greater() for one in known]) < ONE_SIDED


def gather_pairs(runs: RunsByPath) -> list[Pair]:
    """A pair for each group of comparable runs, with the settings that have both scores.

    Points along trainings are left out, and methods and rates whose runs are of several settings.
    """
    of_model: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    pairs = []
    for group in comparable(runs.values()):
        place = {id(results): path for path, results in group.by_path(runs).items()}
        settings = final_settings([one for one in group.runs if has_both_scores(one)])
        by_method: dict[str, dict[float, SeedGroup]] = {}
        paths = {}
        for (label, lr, _), one in unambiguous_settings(settings).items():
            by_method.setdefault(label, {})[lr] = one
            paths[label, lr] = [place[id(run)] for run in one.runs]
        others = of_model.setdefault((group.model, group.fingerprint), {})
        pair = Pair(group, by_method, paths, others)
        others.setdefault(pair.dataset, []).append(pair)
        pairs.append(pair)
    return pairs


def at(method: str, lr: float) -> str:
    """The name of a setting in the scores of a pair."""
    return f"{method} {rate_text(lr)}"
