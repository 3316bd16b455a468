"""The status of a run: the content of status.json."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

State = Literal["pending", "training", "trained", "evaluated", "interrupted", "failed", "diverged"]


@dataclass
class Status:
    """The state of a run, which process set it, and when each state was set (UTC)."""

    state: State = "pending"
    reason: str | None = None
    pid: int | None = None
    process_start: str | None = None
    host: str | None = None
    times: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any) -> "Status":
        """Parse JSON; ValueError or TypeError if it is not a status."""
        status = cls(**value)
        if "state" not in value:
            raise ValueError("no state")
        texts = (status.reason, status.process_start, status.host)
        if status.state not in get_args(State):
            raise ValueError(f"state {str(status.state)[:40]!r}")
        if any(text is not None and type(text) is not str for text in texts):
            raise TypeError("a value that should be text is not")
        if not (status.pid is None or type(status.pid) is int) or type(status.times) is not dict:
            raise TypeError("pid or times has the wrong type")
        return status
