"""Where a run stands: the content of status.json."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

State = Literal["pending", "training", "trained", "evaluated", "interrupted", "failed", "diverged"]


@dataclass
class Status:
    """Where a run stands, who said so, and since when (UTC, per state)."""

    state: State = "pending"
    reason: str | None = None
    pid: int | None = None
    process_start: str | None = None
    host: str | None = None
    times: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> "Status":
        """From JSON. Raises ValueError or TypeError: it is no status."""
        status = cls(**value)
        texts = (status.reason, status.process_start, status.host)
        if status.state not in get_args(State):
            raise ValueError(f"state {status.state!r}")
        if any(text is not None and type(text) is not str for text in texts):
            raise TypeError("a text of another type")
        if not (status.pid is None or type(status.pid) is int) or type(status.times) is not dict:
            raise TypeError("a value of another type")
        return status
