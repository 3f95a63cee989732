"""The submission: every id once, with its answer and the columns of the challenge."""

import re

import numpy as np
import pandas as pd

from utils.mistake import Mistake

REQUEST = (
    "id,preds,RA,Dec,zlens,vel "
    "disp,ell_m,ell_m_PA,sh,sh_PA,Rein,ell_l,ell_l_PA,Reff_l,n_l_sers,mag_lens_g,mag_lens_r,"
    "mag_lens_i,mag_lens_z,mag_lens_y,zsrc,srcx,srcy,"
    "mag_src_g,mag_src_r,mag_src_i,mag_src_z,mag_src_y,ell_s,ell_s_PA,"
    "Reff_s,n_s_sers"
)
# the challenge's own submission_format.csv
OFFICIAL = (
    "id,preds,ra,dec,zlens,mag_lens_g,mag_lens_r,mag_lens_i,mag_lens_z,mag_lens_y,ell_l,ell_l_PA,Rein,vel "
    "disp,sh,sh_PA,"
    "srcx,srcy,mag_src_g,mag_src_r,mag_src_i,mag_src_z,mag_src_y,zsrc,"
    "ell_s,ell_s_PA,Reff_s,n_s_sers,ell_m,ell_m_PA,"
    "Reff_l,n_l_sers,vel_disp,RA,Dec,"
    "mag_object_g,mag_object_r,mag_object_i,mag_object_z,mag_object_y,z_central"
)
COLUMNS = dict(request=REQUEST, official=OFFICIAL)
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # cannot be a formula in a spreadsheet, nor break a CSV line


def check_ids(ids) -> None:
    """Raises Mistake for ids that a spreadsheet may run, or a reader break on."""
    unsafe = [name for name in ids if not SAFE.fullmatch(name)]
    if unsafe:
        raise Mistake(
            f"{len(unsafe)} ids cannot be submitted, first {unsafe[0]!r}: a spreadsheet may run them or a "
            "reader break on them; rename those files so that names begin with a letter or digit and hold "
            "only these and . _ -"
        )


def submission_table(
    ids, answer: np.ndarray, columns: str, fill: int, parameters: pd.DataFrame | None = None
) -> pd.DataFrame:
    """id, answer [N], and the other columns: `fill`, or the parameter of that name where it is known and the
    object is not called a non-lens.

    columns: "request", "official" or "short" (id and answer alone);
        an answer of whole numbers is named preds, another prob.
    parameters: one row an id (path), as parameters.together returns them;
        preds = 0 keeps `fill`, with probabilities no row does.
    """
    kind = "preds" if answer.dtype.kind in "iu" else "prob"
    first, second, *rest = COLUMNS[columns].split(",") if columns in COLUMNS else ["id", kind]
    out = pd.DataFrame({first: np.asarray(ids), second: answer})
    assert out[first].is_unique, "an id is doubled"
    filled = dict.fromkeys(rest, fill)
    if parameters is not None:
        at = pd.Index(parameters["path"]).get_indexer(np.asarray(ids, dtype=object))
        for name in [name for name in rest if name in parameters]:
            values = parameters[name].to_numpy()[at]
            known = (at >= 0) & ~np.isnan(values) & ((answer == 1) | (kind == "prob"))
            # fill stays a whole number
            filled[name] = pd.Series(np.where(known, values, fill), dtype=object).where(known, fill)
    return pd.concat([out, pd.DataFrame(filled, index=out.index, columns=rest)], axis=1)
