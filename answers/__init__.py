"""Answers: what a trained network is asked, one file a task, named like it.

A file here exports `Config` (a frozen dataclass, its fields are flags of predict.py) and
`build(options, own, config, saved) -> Answer` (contract.py): the options of predict.py, this file's own, the task's
configuration as it was trained with the inputs given now, and the checkpoint.
"""
from answers import lens, light_curve

ANSWERS = {"lens": lens, "light_curve": light_curve}
