"""The embedded suite: four lm-evaluation-harness tasks and a text for drift. See README.md."""

from pathlib import Path

TASK_DIR = Path(__file__).parent
