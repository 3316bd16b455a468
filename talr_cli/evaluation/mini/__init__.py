from pathlib import Path
TASK_DIR = Path(__file__).parent
