"""The trials of a search, in a file that several processes share and that survives a crash.

Optuna stores the trials. A process holds a lock file for the trial that it runs, so that others see
which trials were abandoned and take them over.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from talr_cli.errors import InUseError, UserError, reason_of
from talr_cli.runs.disk import explain_write_errors, make_folder
from talr_cli.runs.lease import hold
from talr_cli.runs.reading import read_file
from talr_cli.sweep.space import Dimension

FOLDER = "search"  # in the folder of the study
FILE = "journal.jsonl"
# A finished trial's attributes: its overrides, the directory of its run, and its constraint.
OVERRIDES = "typed"
RUN = "run"
BOUND = "general loss beyond the bound"
# What Optuna raises if a line of the journal is damaged.
_READ_ERRORS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
# Overrides that do not change the scores of a trial.
IRRELEVANT_KEYS = ("study=", "runs_dir=", "device=", "logger=", "logger.")


class Journal:
    """The trials of one search of a study: those of the same space, fixed values and bound.

    The bound counts because each trial keeps by how much it exceeds it.
    """

    def __init__(
        self,
        study: Path,
        space: Sequence[Dimension],
        fixed: Sequence[str],
        seed: int,
        max_general_loss: float,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        relevant = sorted(one for one in fixed if not one.startswith(IRRELEVANT_KEYS))
        key = json.dumps([[asdict(one) for one in space], relevant, seed, max_general_loss])
        self.name = hashlib.sha256(key.encode()).hexdigest()[:8]
        self.folder = study / FOLDER
        make_folder(self.folder)
        file = self.folder / FILE
        lock: Any = _Lock(file)  # Optuna's base class is not public
        try:
            with suppress(FileNotFoundError):
                read_file(file)  # refuses a pipe, on which Optuna would block
            with explain_write_errors(file):
                backend = _File(str(file), lock_obj=lock)
            self.study = optuna.create_study(
                study_name=self.name,
                storage=JournalStorage(backend),
                direction="maximize",
                load_if_exists=True,
                # A median needs at least two trials.
                pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
            )
            _check_finished(self.study)
        except _READ_ERRORS as error:
            reason = reason_of(error)
            raise UserError(
                f"{file} is damaged ({reason}): delete it and repeat the command, which makes the "
                "same trials again and finds the runs that are done"
            ) from error
        self._seed = seed

    @contextmanager
    def next_trial(self, n_trials: int) -> Iterator[Trial | None]:
        """A trial for this process: an abandoned one, or a new one up to `n_trials`; else None.

        Its values depend only on the seed and the earlier trials, not on the process that asks nor
        on how often that was restarted.
        """
        with ExitStack() as locks:
            for running in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                number = running.number
                try:
                    locks.enter_context(self._trial_lock(number))
                except InUseError:
                    continue
                if self.study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING:
                    self._seed_sampler(number)
                    yield Trial(self.study, running._trial_id)
                    return
                locks.pop_all().close()  # another process has finished it meanwhile
            with hold(self.folder / f"{self.name}.lock", wait=True):
                number = len(self.study.get_trials(deepcopy=False))
                if number >= n_trials:
                    trial = None
                else:
                    self._seed_sampler(number)
                    trial = self.study.ask()
                    locks.enter_context(self._trial_lock(trial.number))
            yield trial

    def _seed_sampler(self, number: int) -> None:
        digest = hashlib.sha256(f"{self._seed} {number}".encode()).digest()
        self.study.sampler = TPESampler(seed=int.from_bytes(digest[:4]))

    def _trial_lock(self, number: int) -> AbstractContextManager[None]:
        return hold(self.folder / f"{self.name}-{number}.lock")


def _check_finished(study: optuna.Study) -> None:
    """Raise one of _READ_ERRORS if a finished trial lacks what is read of it; Optuna takes any."""
    if len(study.directions) != 1:
        raise ValueError("it has not one score a trial")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        numbers = [*(trial.values or ()), trial.constraints.get(BOUND)]
        texts = [trial.user_attrs.get(OVERRIDES), trial.user_attrs.get(RUN)]
        if (
            len(numbers) != 2
            or not all(type(one) in (int, float) and abs(one) < math.inf for one in numbers)
            or not all(isinstance(one, str) for one in texts)
        ):
            raise ValueError(f"trial {trial.number + 1} is incomplete")


class _File(JournalFileBackend):
    """The file of the journal; that it cannot be written is one line for the user."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with explain_write_errors(Path(self._file_path)):
            super().append_logs(logs)


class _Lock:
    """The lock of the journal for Optuna; the system releases it when the process is killed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: Any = None

    def acquire(self) -> bool:
        self._held = hold(self._file.with_suffix(".lock"), wait=True)
        self._held.__enter__()
        _remove_incomplete_line(self._file)
        return True

    def release(self) -> None:
        self._held.__exit__(None, None, None)


def _remove_incomplete_line(file: Path) -> None:
    """Remove the part of a line that a process was writing when it was killed."""
    content = read_file(file) if file.exists() else b""
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with file.open("rb+") as opened:
            opened.truncate(complete)
