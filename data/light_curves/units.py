"""Units of rates: one spelling and size each, so that files, packs and checkpoints can be compared."""

import re
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
from astropy import units

COUNTS = "count/s"
PER_AREA = "photon/cm2/s"
# what rates are in, and how it is written
KINDS = (
    (units.ct / units.s, COUNTS),
    (units.ph / units.s, COUNTS),
    (units.Hz, COUNTS),
    (units.ph / units.cm**2 / units.s, PER_AREA),
    (units.ct / units.cm**2 / units.s, PER_AREA),
    (units.cm**-2 / units.s, PER_AREA),
    (units.erg / units.cm**2 / units.s, "erg/cm2/s"),
    (units.erg / units.cm**2 / units.s / units.AA, "erg/cm2/s/Angstrom"),
    (units.Jy, "Jy"),
    (units.electron / units.s, "electron/s"),
)
# float32 holds what lies between, with errors, slopes and ratios; beyond it rates are in units of RAISED
LEAST, MOST = 1e-33, 1e33
RAISED = 1e-36, 1e36


@cache
def unit_of_rate(text: str) -> tuple[float, str]:
    """(what brings a value to the unit, its name) of a unit as a file writes it: W/m2 is 1000 erg/cm2/s.
    One that is not known stands for itself.
    """
    text = " ".join(text.split())
    spelled = re.sub(r"\b(count|ct|photon|electron|erg)s\b", r"\1", text)
    spelled = re.sub(r"\bsec(onds?)?\b", "s", spelled).replace("e-/s", "electron/s").replace("cm^2", "cm2")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two slashes, as FITS forbids and all write
            unit = units.Unit(spelled)
            for kind, name in KINDS:
                if unit.is_equivalent(kind):
                    return float(unit.to(kind)), name
    except (ValueError, TypeError):
        pass
    return 1.0, text


def in_range(unit: str, typical_error: float, *values: np.ndarray) -> tuple[str, tuple[np.ndarray, ...]]:
    """(unit, values), in units of a power of ten where float32 does not hold errors of that size."""
    if not typical_error > 0 or LEAST < typical_error < MOST:
        return unit, values
    raised = RAISED[0] if typical_error <= LEAST else RAISED[1]
    with np.errstate(over="ignore", invalid="ignore"):
        return f"{raised:g} {unit or '(unit not written)'}", tuple(value / raised for value in values)


def raised_note(unit: str) -> str:
    return f"rates in units of {unit}, as 32-bit numbers do not hold them"


def unit_conflict(trained: Sequence[str], given: Sequence[str]) -> str:
    """A line where rates are in a unit that the training had none of, both being known; else nothing."""
    if not trained or not given or set(given) <= set(trained):
        return ""
    return f"rates are in {', '.join(given)}, but those of training were in {', '.join(trained)}"
