"""parameters.fits of the lens challenge: what each object of a folder is, one row an object.

Lenses have the columns of the challenge's note of 25 August 2025, section 5.1 (physics/lens_parameters.py);
others "Object ID", RA, Dec, z_central and magnitudes; either may have a `group`. An id that is there twice
is dropped, and said, as nobody can say which of the two a file belongs to.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from astropy.io import fits

from data.catalogues.tables import null_cells
from data.cutouts.metadata import field_of, is_placeholder
from data.formats import Format
from physics.lens_parameters import QUANTITIES, encode, slices
from utils.files import is_trouble
from utils.messages import first_of, say
from utils.mistake import Mistake

NAME = "parameters.fits"
FORMATS = (
    Format(
        "parameters of the lens challenge",
        f"{NAME} beside the cutouts, a FITS table with a column Lens ID or Object ID",
        "columns of numbers, and `group`; -99, -999, magnitudes of 99 and more and TNULL are missing",
        "columns of texts (named); ids that are there twice (counted)",
    ),
)
IDS = ("Lens ID", "Object ID")
GROUP = "group"
# names of the metadata table (data/cutouts/metadata.py), by theirs
METADATA = dict(RA="ra", Dec="dec", zlens="redshift", z_central="redshift") | {
    f"mag_lens_{band}": f"magnitude_{band}" for band in "grizy"
}


def read_truth(paths, say: Callable[[str], object] = say) -> pd.DataFrame:
    """All tables in the folders of these files, as one: `object`, `group` where one has it (text), then their
    columns as float64, NaN where a table lacks one.

    say: where lines for people go. Raises Mistake for a table that cannot be read.
    """
    folders = sorted({os.path.dirname(path) for path in paths})
    tables = [_read_table(Path(folder) / NAME, say) for folder in folders if (Path(folder) / NAME).is_file()]
    if not tables:
        return pd.DataFrame(dict(object=pd.Series([], dtype=str)))
    together = pd.concat(tables, ignore_index=True)
    twice = together["object"].duplicated(keep=False)
    if twice.any():
        lost = together["object"][twice].unique()
        say(
            f"{NAME}: {len(lost):,} ids are there more than once, so nothing of them is known "
            f"({first_of(lost.tolist())})"
        )
    return together[~twice].reset_index(drop=True)


def _read_table(path: Path, say: Callable[[str], object]) -> pd.DataFrame:
    try:
        with fits.open(path, memmap=False) as file:
            table = file[1]
            rows = table.data
            name = next(name for name in IDS if name in rows.names)
            columns: dict[str, Any] = {"object": [str(value).strip() for value in rows[name]]}
            if GROUP in rows.names:
                columns[GROUP] = [str(value).strip() for value in rows[GROUP]]
            others = [other for other in rows.names if other not in (name, GROUP)]
            texts = [
                other for other in others if rows[other].ndim > 1 or rows[other].dtype.kind not in "biuf"
            ]
            if texts:
                say(f"{path}: columns not used, as they hold no numbers: {first_of(texts, 12)}")
            for other in others:
                if other not in texts:
                    values = np.array(rows[other], dtype=np.float64)
                    values[null_cells(table.columns[other], rows[other])] = np.nan
                    columns[other] = values
    except (OSError, IndexError, ValueError, TypeError, KeyError, StopIteration) as error:
        if is_trouble(error):
            raise
        raise Mistake(
            f"{path}: is not the challenge's table of parameters (a FITS table with a column "
            f"{' or '.join(map(repr, IDS))}): {error or 'no such column'}; mend or remove it"
        ) from error
    return pd.DataFrame(columns)


def truth_components(table: pd.DataFrame, objects: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """[N, P] float32, the components of the quantities `names` for each of `objects` [N];
    NaN where a thing is not known.

    A quantity whose columns are not all there, or hold the challenge's fill value -999 or another placeholder
    (99 for a magnitude), is not known.
    """
    at = pd.Index(table["object"]).get_indexer(objects)
    out = np.full((len(objects), sum(len(QUANTITIES[name].columns) for name in names)), np.nan, np.float32)
    for name, place in slices(names).items():
        if set(QUANTITIES[name].columns) <= set(table):
            values = table[list(QUANTITIES[name].columns)].to_numpy(np.float64)[at]
            no_magnitude = (values >= 99) if name.startswith("mag_") else np.zeros(values.shape, dtype=bool)
            values[(at < 0) | ((values <= -99) | no_magnitude).any(1)] = np.nan
            out[:, place] = encode(name, torch.from_numpy(values)).numpy()
    return out


def truth_metadata(table: pd.DataFrame) -> pd.DataFrame:
    """What of it is known of any galaxy, by the names of data/cutouts/metadata.py:
    place, redshift, magnitudes.
    """
    out = table[["object"]].copy()
    if GROUP in table:
        out[GROUP] = table[GROUP].fillna("")
    for theirs, ours in METADATA.items():
        if theirs in table:
            values = table[theirs].where(table[theirs] > -99)
            values = values.mask(is_placeholder(values.to_numpy(), field_of(ours)))
            out[ours] = values if ours not in out else out[ours].fillna(values)
    return out
