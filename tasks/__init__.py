"""Tasks: each file is one scientific question.

A file here exports `Config` (a frozen dataclass, its fields are flags) and `build(config, run_dir, workers) -> Task`
(contract.py). To add a task, write the file and its line below.
"""
from tasks import lens, light_curve

TASKS = {"lens": lens, "light_curve": light_curve}
