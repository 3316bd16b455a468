"""Identifies processes by their start time, since process ids are reused."""

import subprocess
from pathlib import Path


def process_start(pid: int) -> str | None:
    """When process `pid` started, as text for comparison only; None if it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:  # also if `pid` is out of range
            return None
        # The command name, in parentheses, may itself contain spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        state, start_ticks = fields[0], fields[19]
        return None if state in "ZX" else start_ticks
    listing = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, start = listing.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()
