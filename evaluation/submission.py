"""The submission: every id once, with its answer and the columns of the challenge."""

import re
from collections.abc import Callable

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
# What a spreadsheet runs when it opens a CSV file; a minus before a number is a number.
NUMBER = r"-(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
RUN = re.compile(rf"^\s*(?:[=+@\t\r]|(?!{NUMBER})-)|^[\t\r]", re.MULTILINE)
# of a path, which begins with the name of an object, what follows the number of digits, letters, . and _
RUN_PATH = re.compile(r"^\s*(?:[=+@\t\r]|-(?!\w[\w.#,-]*$))|^[\t\r]", re.MULTILINE)
# what breaks a line, or is not seen
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def unharmed(texts: pd.Series, what: str, escape: bool, warn: Callable[[str], None]) -> pd.Series:
    """Texts for a CSV file that people open in a spreadsheet: as they are, or with `escape` an apostrophe
    before those that it would run.

    what: "object", "domain", "band" or "path", for the message.
    Raises Mistake for those, without `escape`; for control characters (in a path they are its folder's
    affair), and for an object without a name.
    """
    run = RUN_PATH if what == "path" else RUN
    # nearly always there is nothing to find, and one look at all of them says so
    together = "\n".join(texts)
    plain = together.count("\n") == len(texts) - 1 and not CONTROL.search(together.replace("\n", ""))
    if plain and not run.search(together) and not (what == "object" and (texts == "").any()):
        return texts
    names = pd.Series(pd.unique(texts), dtype=object)
    kind = "ids" if what == "object" else f"{what}s"
    # what begins with a tab is run, and can be escaped
    broken = names.map(lambda name: bool(CONTROL.search(name.lstrip("\t"))) and what != "path")
    broken |= (names == "") & (what == "object")
    if broken.any():
        raise Mistake(
            f"{broken.sum()} {kind} cannot be written, first {names[broken].iloc[0]!r}: they hold a control "
            "character, such as a newline, or nothing; rename them"
        )
    runs = names.map(lambda name: bool(run.match(name))).astype(bool)
    if runs.any() and not escape:
        raise Mistake(
            f"{runs.sum()} {kind} cannot be written, first {names[runs].iloc[0]!r}: a spreadsheet runs what "
            "begins with = + @ a tab or a carriage return, or with a - that is no number; rename them, or "
            "--escape puts an apostrophe before them"
        )
    quoted = ("'" + names[runs]).set_axis(names[runs])
    if (both := quoted.isin(names)).any():
        raise Mistake(
            f"--escape: {quoted[both].iloc[0]!r} is among the {kind} already; rename one of the two"
        )
    if len(quoted):
        warn(
            f"{len(quoted)} {kind} that a spreadsheet would run have an apostrophe before them now, first "
            f"{quoted.iloc[0]!r}"
        )
    return texts.where(~texts.isin(quoted.index), "'" + texts)


def submission_table(
    ids,
    answer: np.ndarray,
    columns: str,
    fill: int,
    parameters: pd.DataFrame | None = None,
    place: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """id, answer [N], and the other columns: `fill`, or the parameter of that name where it is known and the
    object is not called a non-lens.

    columns: "request", "official" or "short" (id and answer alone);
        an answer of whole numbers is named preds, another prob.
    parameters: one row an id (path), as parameters.together returns them;
        preds = 0 keeps `fill`, with probabilities no row does.
    place: ra and dec in deg by id, of lenses and others alike.
    """
    kind = "preds" if answer.dtype.kind in "iu" else "prob"
    first, second, *rest = COLUMNS[columns].split(",") if columns in COLUMNS else ["id", kind]
    out = pd.DataFrame({first: np.asarray(ids), second: answer})
    assert out[first].is_unique, "an id is doubled"
    filled = dict.fromkeys(rest, fill)
    if place is not None:
        here = place.reindex(np.asarray(ids, dtype=object))
        for name in [name for name in rest if name.lower() in place]:
            filled[name] = here[name.lower()].astype(object).where(here[name.lower()].notna(), fill).array
    if parameters is not None:
        at = pd.Index(parameters["path"]).get_indexer(np.asarray(ids, dtype=object))
        for name in [name for name in rest if name in parameters]:
            values = parameters[name].to_numpy()[at]
            known = (at >= 0) & ~np.isnan(values) & ((answer == 1) | (kind == "prob"))
            # fill stays a whole number
            filled[name] = pd.Series(np.where(known, values, fill), dtype=object).where(known, fill)
    return pd.concat([out, pd.DataFrame(filled, index=out.index, columns=rest)], axis=1)
