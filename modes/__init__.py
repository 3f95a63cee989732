"""Modes: each file is one way to turn a batch into a gradient.

A file here exports `Config` (a frozen dataclass, its fields are flags) and `build(config, run) -> Gradient`
(contract.py). To add a mode, write the file and its line below; ordinary back-propagation is in train.py, and
elastic.py is what `--deterministic elastic` builds instead of it.
"""

from modes import private

MODES = {"single": None, "customer_data": private}
