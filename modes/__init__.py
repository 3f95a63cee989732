"""Modes: each file is one way to turn a batch into a gradient.

A file here has `build(config, run) -> Gradient` and, if it has options, `Config` (a frozen dataclass, its
fields are flags); a mode that trains another task than it is given has `pose(config, task) -> Task`
(contract.py). To add a mode, write the file and its line below; ordinary back-propagation is in train.py, and
elastic.py is what `--deterministic elastic` builds instead of it.
"""

from contract import Mode
from modes import private

MODES = {"customer_data": Mode(private.build, private.Config)}
