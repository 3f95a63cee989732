"""Tasks: each folder is one scientific question.

A folder here exports `Config` (a frozen dataclass, its fields are flags), `Inputs` (those of them that say
where the data are), `build(config, run_dir, workers) -> Task` (contract.py), and what predict.py needs of a
trained network: `Asked` (a frozen dataclass, its fields are flags of predict.py) and `answer(options, asked,
config, saved) -> Answer`, of the options of predict.py, these, the task's configuration as it was trained
with the inputs given now, and the checkpoint. To add a task, write the folder and its line below.
"""

from tasks import lens, light_curve

TASKS = {"lens": lens, "light_curve": light_curve}
