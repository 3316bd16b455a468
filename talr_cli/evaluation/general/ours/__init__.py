"""Tasks that lm-evaluation-harness lacks, or judges in another way than its name says."""

from pathlib import Path

TASK_DIR = Path(__file__).parent
