"""The Python interface, for scripts and notebooks: read studies and runs, train and evaluate.

A study is read from its run directories, as on the command line; training and evaluation take the
same config values. Mistakes that the user can correct raise `talr_cli.errors.UserError`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli import ranks
from talr_cli.commands.eval import score_or_find
from talr_cli.commands.train import make_runs
from talr_cli.config.composition import Composed, compose_config
from talr_cli.config.stored import overrides_of_run
from talr_cli.errors import UserError
from talr_cli.runs.listing import find_run
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.samples import read_samples
from talr_cli.runs.study import scored_runs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Random generators, warning filters and transformers' default device belong to the process, so two
# runs in two threads would disturb each other's numbers.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Run:
    """A run on disk; everything is read on access.

    Attributes:
        path: Its directory.
    """

    path: Path

    @property
    def state(self) -> str:
        """pending, training, trained, evaluated, interrupted, failed or diverged."""
        return self._directory.read_status().state

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, as plain values."""
        return self._directory.read_config()

    @property
    def results(self) -> dict[str, Any] | None:
        """The content of results.json; None before it is scored."""
        return self._directory.read_results()

    def metrics(self) -> pd.DataFrame:
        """A data frame with a row for each step and each validation."""
        import pandas as pd

        return pd.DataFrame(self._directory.read_metrics())

    def samples(self, part: str = "domain") -> pd.DataFrame:
        """A data frame with a row for each item: what was asked, answered and judged.

        Args:
            part: `domain`, or `general/TASK`.

        Raises:
            UserError: The run has none of this part.
        """
        import pandas as pd

        folder = self._directory.samples
        if not (records := read_samples(folder, part)):
            stems = sorted(file.stem for file in folder.glob("*.jsonl"))
            there = ", ".join(stems).replace("general-", "general/") or "none"
            raise UserError(f"{folder} has no answers of {part}; it has {there}")
        return pd.DataFrame(records)

    def model(self, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """(the model as it was scored, its tokenizer).

        Raises:
            UserError: There is no checkpoint, or it is damaged.
        """
        from transformers import AutoTokenizer

        from talr_cli.models.config import ModelConfig
        from talr_cli.models.loading import choose_device, load_model
        from talr_cli.models.sources import directory_source

        stored = self.config["model"]
        values = {key: stored[key] for key in ("architecture", "key_mapping", "attention")}
        config = ModelConfig(path=str(self._directory.model), **values)
        source = directory_source(self._directory.model)
        tokenizer: Any = AutoTokenizer.from_pretrained(self._directory.model)
        return load_model(source, config, "auto", choose_device(device)), tokenizer

    @property
    def _directory(self) -> RunDirectory:
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not there (the current folder is {Path.cwd()})")
        return RunDirectory(self.path)


def study(name: str = "default", runs_dir: str | Path = "runs") -> pd.DataFrame:
    """A data frame with a row for each scored run: the columns of table.csv, and the run's path.

    Raises:
        UserError: The study has no scored run.
    """
    import pandas as pd

    from talr_cli.report.as_json import rows_of
    from talr_cli.report.tables.table import results_cells, study_rows
    from talr_cli.statistics.groups import comparable

    runs = scored_runs(Path(runs_dir), name)
    groups = comparable(runs.values())
    rows = study_rows(groups)
    frame = pd.DataFrame(rows_of(results_cells(rows)))
    paths = {id(results["run"]): path for path, results in runs.items()}
    frame["path"] = [str(paths[id(row.run)]) for row in rows]
    return frame


def run(name: str | Path, study: str | None = None, runs_dir: str | Path = "runs") -> Run:
    """Find a run by its directory, or by the beginning of its name.

    Args:
        study: The study to search; None: all studies.

    Raises:
        UserError: There is no such run, or there are several.
    """
    return Run(find_run(str(name), Path(runs_dir), study).path)


def pictures(name: str = "default", runs_dir: str | Path = "runs") -> dict[str, Figure]:
    """{title: figure}: domain against general score, for each model and dataset.

    Raises:
        UserError: The study has no scored run.
    """
    from talr_cli.report.figures.tradeoff import draw_tradeoff
    from talr_cli.statistics.groups import comparable

    groups = comparable(scored_runs(Path(runs_dir), name).values())
    drawn = {group.title: draw_tradeoff(group) for group in groups}
    return {title: figure for title, figure in drawn.items() if figure is not None}


def train(*overrides: str, config_dir: str | Path | None = None) -> list[Run]:
    """`talr train` with these config values, such as "method=talr" and "lr=1e-6", in this process.

    A run that is done already is not made again.

    Returns:
        The run, or several with `score_at` or several alphas of a merge.

    Raises:
        UserError: A value is wrong, or something is missing.
    """
    with _composed("train", overrides, config_dir) as composed:
        return [Run(directory.path) for directory in make_runs(composed)]


def evaluate(*overrides: str, config_dir: str | Path | None = None) -> Run:
    """`talr eval` with these config values, such as "ckpt=PATH"; raises the same as `train`."""
    with _composed("eval", overrides, config_dir, hold=overrides_of_run) as composed:
        return Run(score_or_find(composed).path)


@contextmanager
def _composed(
    command: str, overrides: Sequence[str], config_dir: str | Path | None, **how: Any
) -> Iterator[Composed[Any]]:
    """The config of a command; within this context no other thread makes a run."""
    from talr_cli.evaluation.general.tasks import preserve_rng_state

    with _ONE_AT_A_TIME:
        folder = None if config_dir is None else Path(config_dir)
        composed = compose_config(command, overrides, folder, **how)
        if ranks.missing_ranks(composed.config.distributed, composed.config.device):
            raise UserError(
                "several GPUs need a process each: use `talr train` and `talr eval` for that"
            )
        with preserve_rng_state():  # else random numbers in a notebook would repeat after each run
            yield composed
