"""Which column of a table of galaxies is the redshift, and which of its values are placeholders."""

from collections.abc import Iterable

import numpy as np

from data.cutouts.metadata import field_of

# the first that is there is taken: spectroscopic before photometric
REDSHIFTS = (
    "redshift",
    "specz_redshift",
    "spec_z",
    "specz",
    "z_spec",
    "zspec",
    "z",
    "photo_z",
    "photoz",
    "z_phot",
    "zphot",
)


def redshift_column(names: Iterable[str]) -> str:
    """The first of REDSHIFTS among the names of columns, "" where there is none."""
    lower = {name.lower(): name for name in reversed(list(names))}
    if {"g", "r"} & lower.keys():
        lower.pop("z", None)  # a magnitude beside those of other bands
    return next((lower[name] for name in REDSHIFTS if name in lower), "")


def sound_redshifts(values: np.ndarray) -> tuple[np.ndarray, int]:
    """(float64 [rows], NaN where a value is no redshift: -99, 9999; how many of these there are)."""
    low, high = field_of("redshift").expected
    values = np.asarray(values, dtype=np.float64)
    placeholder = np.isfinite(values) & ~((values >= low) & (values <= high))
    return np.where(placeholder, np.nan, values), int(placeholder.sum())


def redshift_line(name: str, values: np.ndarray, placeholders: int) -> str:
    """What was taken, for the log."""
    line = f"redshift: column {name}, known of {int(np.isfinite(values).sum()):,} of {len(values):,} rows"
    if placeholders:
        low, high = field_of("redshift").expected
        line += f"; outside {low:g} to {high:g}, taken for missing: {placeholders:,}"
    return line
