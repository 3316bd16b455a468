"""The settings of one model and dataset by method and learning rate, as claims ask for them.

Knows which of them can be compared; does not know what is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from talr_cli.printable import rate_text
from talr_cli.statistics.contrasts import SIDE, Contrast, any_holds
from talr_cli.statistics.groups import Group, comparable
from talr_cli.statistics.pairs import Results, has_both_scores, is_base
from talr_cli.statistics.seeds import SeedGroup, only_settings, whole_trainings
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
        """Of all settings, named as by `at`, and of the base model."""
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
        there = sorted(self.by_method.get(method, {}))
        left_out = self.scores.left_out
        rates = [lr for lr in there if at(method, lr) not in left_out]
        if len(rates) < least:
            reasons = [left_out[at(method, lr)] for lr in there if at(method, lr) in left_out]
            why = f": {reasons[0]}" if reasons else ""
            raise NotTestable(
                f"needs {least} learning rates of {method}, there are {len(rates)}{why}"
            )
        return rates

    def check_base(self) -> None:
        """Raise NotTestable where the base model's scores are not known."""
        if "base" not in self.scores.place:
            raise NotTestable(self.scores.left_out.get("base", "the base model was not scored"))

    def lead(self, part: Part, one: str, other: str) -> Contrast:
        """The score of a setting less that of another."""
        return self.scores.contrast(part, {one: 1, other: -1})

    def between_runs(self) -> str:
        """What is known of the deviation between runs of one setting."""
        known = {part: found for part, found in self.scores.deviations.items() if found}
        if not known:
            return "unknown, as no setting has several seeds"
        source = next(iter(known.values())).source
        told = ", ".join(
            f"{part} {found.variance**0.5:.3f}" for part, found in known.items() if part != "both"
        )
        return f"{told}, from {source}"

    def gains(self, names: Sequence[str]) -> bool:
        """Whether it is sure that one of these settings gained on the domain (Bonferroni)."""
        leads = [self.lead("domain", name, "base") for name in names]
        # With one seed of everything it is asked whether these very checkpoints did.
        known = [replace(one, runs=one.runs or 0.0) for one in leads]
        return any_holds([one.not_above() for one in known]) < SIDE


def gather_pairs(runs: Mapping[Path, Results]) -> list[Pair]:
    """A pair for each group of comparable runs, of whole trainings that have both scores.

    Methods and rates whose runs are of several settings are left out.

    Args:
        runs: The results by run directory.
    """
    of_model: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    pairs = []
    for group in comparable(runs.values()):
        place = {id(results): path for path, results in group.by_path(runs).items()}
        settings = whole_trainings([one for one in group.runs if has_both_scores(one)])
        by_method: dict[str, dict[float, SeedGroup]] = {}
        paths = {}
        for (label, lr, _), one in only_settings(settings).items():
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
