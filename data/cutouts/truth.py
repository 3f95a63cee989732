"""parameters.fits of the lens challenge: what each object of a folder is, one row an object.

Lenses have the columns of the challenge's note of 25 August 2025, section 5.1 (physics/lens_parameters.py);
others "Object ID", RA, Dec, z_central and magnitudes. An id that is there twice is dropped,
as nobody can say which of the two a file belongs to.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from astropy.io import fits

from physics.lens_parameters import QUANTITIES, encode, slices
from utils.files import is_trouble
from utils.mistake import Mistake

NAME = "parameters.fits"
IDS = ("Lens ID", "Object ID")
# names of the metadata table (data/cutouts/metadata.py), by theirs
METADATA = dict(RA="ra", Dec="dec", zlens="redshift", z_central="redshift") | {
    f"mag_lens_{band}": f"magnitude_{band}" for band in "grizy"
}


def read_truth(paths) -> pd.DataFrame:
    """All tables in the folders of these files, as one: `object`, then their columns as float64,
    NaN where a table lacks one.

    Raises Mistake for a table that cannot be read.
    """
    folders = sorted({os.path.dirname(path) for path in paths})
    tables = [_read_table(Path(folder) / NAME) for folder in folders if (Path(folder) / NAME).is_file()]
    if not tables:
        return pd.DataFrame(dict(object=pd.Series([], dtype=str)))
    together = pd.concat(tables, ignore_index=True)
    return together[~together["object"].duplicated(keep=False)].reset_index(drop=True)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        with fits.open(path, memmap=False) as file:
            rows = file[1].data
            name = next(name for name in IDS if name in rows.names)
            columns = {"object": [str(value).strip() for value in rows[name]]}
            columns |= {
                other: np.asarray(rows[other], dtype=np.float64) for other in rows.names if other != name
            }
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

    A quantity whose columns are not all there, or hold the challenge's fill value -999, is not known.
    """
    at = pd.Index(table["object"]).get_indexer(objects)
    out = np.full((len(objects), sum(len(QUANTITIES[name].columns) for name in names)), np.nan, np.float32)
    for name, place in slices(names).items():
        if set(QUANTITIES[name].columns) <= set(table):
            values = table[list(QUANTITIES[name].columns)].to_numpy(np.float64)[at]
            values[(at < 0) | (values <= -99).any(1)] = np.nan
            out[:, place] = encode(name, torch.from_numpy(values)).numpy()
    return out


def truth_metadata(table: pd.DataFrame) -> pd.DataFrame:
    """What of it is known of any galaxy, by the names of data/cutouts/metadata.py:
    place, redshift, magnitudes.
    """
    out = table[["object"]].copy()
    for theirs, ours in METADATA.items():
        if theirs in table:
            values = table[theirs].where(table[theirs] > -99)
            out[ours] = values if ours not in out else out[ours].fillna(values)
    return out
