"""Tasks: each folder is one scientific question. To add a task, write the folder and its line below.

A folder here exports

    Config      frozen dataclass, its fields are flags of train.py
    Inputs      those of them that say where the data are, which a prediction is given anew
    build       (config, run_dir, workers) -> Task (contract.py); what cannot be is refused before the data
                are read
    rebuild     (record) -> the network that a checkpoint's record describes, its weights not loaded
    Asked       frozen dataclass, its fields are flags of predict.py
    answer      (options of predict.py, asked, config, checkpoint) -> Answer; config as it was trained, with
                the inputs that are given now
    tiny        (folder) -> flags of train.py: writes a few examples there, for tests and a first try;
                with them the loss of a network in eval mode draws nothing at random
"""

from tasks import lens, light_curve

TASKS = {"lens": lens, "light_curve": light_curve}

# What trained.load gives a notebook, for tasks that have it: a class, made of (checkpoint, network, device).
DOORS = {"lens": lens.LensFinder, "light_curve": light_curve.CurveEmbedder}
