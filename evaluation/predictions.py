"""Tables of predictions: read, check, bring into one order, combine the members of an ensemble, fuse rows.

A table has one row a file: path, domain, label (1, 0, NaN unknown) and prob (NaN: quarantined), float64;
or one row an object, with `object` instead of path. evaluation/identity.py says what object a file is of.
"""

from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from evaluation import identity
from utils import files
from utils.messages import first_of
from utils.mistake import Mistake

COLUMNS = ["path", "domain", "label", "prob"]
IDENTITY = ["object", "id", "band"]  # where a table says itself what its rows are
# of a table of another code: what it is called where --columns does not say it
FOREIGN = {
    "id": {"id", "object", "object_id", "objid", "name", "path"},
    "prob": {"prob", "probability", "p_lens", "score"},
    "label": {"label", "is_lens", "truth"},
    "domain": {"domain"},
}
# float32 rounds a probability beyond 1 - 2^-24 to 1, so logits are kept within this on both sides
EDGE = 2.0**-24


def read_predictions(path: str) -> pd.DataFrame:
    """The table in a CSV file with the columns path (object or id, where a row is an object), domain, label
    and prob, as predict.py and ensemble.py write it; with object and band, where these are known.

    Raises Mistake for a missing file or column, an empty table, a row twice, a label or probability that
    cannot be, and where the table that says what its files are is of others.
    """
    if not Path(path).is_file():
        raise Mistake(f"there is no file {path!r}: expected a table of predictions, such as pred_val.csv")
    try:
        wanted = {*COLUMNS, *IDENTITY}
        table = pd.read_csv(path, usecols=lambda name: name in wanted, dtype="str", keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: is not a CSV table: {' '.join(str(error).split())}") from error
    # beside a path, an id may be anything; with bands of it, it is the object
    if "object" not in table and "id" in table and ("path" not in table or "band" in table):
        table = table.rename(columns=dict(id="object"))
    row = ["path"] if "path" in table or "object" not in table else []
    if missing := [name for name in row + COLUMNS[1:] if name not in table]:
        raise Mistake(
            f"{path}: has no column {missing[0]!r}; expected path,domain,label,prob as predict.py writes "
            "them, or object instead of path where a row is an object (evaluate.py takes a table of another "
            "code: --columns prob=NAME)"
        )
    told = [name for name in ("object", "band") if "object" in table and name in table]
    table = table[row + told + COLUMNS[1:]]
    for name in ("label", "prob"):
        text = table[name]
        table = table.assign(**{name: numbers(text)})
        wrong = table[name].isna() & ~text.str.strip().str.lower().isin(["", "nan"])
        wrong |= (
            ~table[name].isin([0, 1]) & table[name].notna()
            if name == "label"
            else ~table[name].between(0, 1) & table[name].notna()
        )
        if wrong.any():
            raise Mistake(
                f"{path}: line {int(np.argmax(wrong)) + 2} has {name} {text[wrong].iloc[0]!r}; expected "
                + (
                    "1, 0 or nothing"
                    if name == "label"
                    else "a number from 0 to 1, or nothing where there is none; of percents evaluate.py "
                    "--scale 100"
                )
            )
    return whole(identity.known_rows(table, path), path)


def read_foreign(
    path: str, columns: dict[str, str], scale: float, said: Callable[[str], object]
) -> pd.DataFrame:
    """The table of another code: path (its ids as they are, some maybe several times), domain, label and
    prob.

    path: one of data/catalogues/tables.FORMATS. columns: ours -> theirs, of id, prob, label and domain; what
        is not mapped is looked for by its own name, and may be missing but for prob. scale: what stands for
        certain, 100 of percents. said: where lines about what was taken go.
    Raises: Mistake.
    """
    # astropy, seconds that other runs need not pay
    from data.catalogues.tables import label_values, numeric_column, read_table
    from data.cutouts.metadata import PLACEHOLDERS

    table = read_table(path, "--csv", said=said)
    if unknown := sorted(columns.keys() - FOREIGN.keys()):
        raise Mistake(f"--columns {unknown[0]}=...: expected some of {', '.join(FOREIGN)}")
    names = {}
    for ours, others in FOREIGN.items():
        if ours in columns and columns[ours] not in table:
            raise Mistake(
                f"--columns {ours}={columns[ours]}: {path!r} has no such column, it has "
                f"{', '.join(table.columns[:12])}"
            )
        found = [name for name in table if name.lower() in others]
        if ours in columns or found:
            names[ours] = columns.get(ours) or found[0]
    if "prob" not in names:
        raise Mistake(
            f"{path}: has no column prob, it has {', '.join(table.columns[:12])}: expected --columns "
            "prob=NAME"
        )
    said(f"{path}: " + ", ".join(f"{ours} is column {theirs}" for ours, theirs in names.items()))
    if unused := [name for name in table if name not in names.values()]:
        said(f"{path}: columns not used: {first_of(unused, 12)}")
    prob = numeric_column(table, names["prob"], path)
    none = np.isin(prob, PLACEHOLDERS) & (prob < 0)
    if none.any():
        said(f"{path}: prob taken for missing: {int(none.sum()):,} ({prob[none][0]:g})")
    prob[none] = np.nan
    prob = prob / scale
    if (wrong := (prob < 0) | (prob > 1)).any():
        row = int(np.argmax(wrong))
        raise Mistake(
            f"{path}: row {row + 1} has {names['prob']} {table[names['prob']].iloc[row]!r}, expected 0 to "
            f"{scale:g}" + ("; of percents --scale 100" if scale == 1 else "")
        )
    label = np.full(len(table), np.nan)
    if "label" in names:
        found, lines = label_values(table[names["label"]], path)
        label = np.where(found < 0, np.nan, found)
        for line in lines:
            said(f"{path}: {line}")
    rows = pd.Series(np.arange(len(table))).astype("str")
    return pd.DataFrame(
        dict(
            path=table[names["id"]] if "id" in names else rows,
            domain=table[names["domain"]] if "domain" in names else "",
            label=label,
            prob=prob,
        )
    )


def numbers(text: pd.Series) -> pd.Series:
    """float64, rounded as Python does (pandas' own parser may miss the last digit);
    NaN for what is no number.
    """
    known = text.str.strip() != ""
    values = np.full(len(text), np.nan)
    try:
        values[known] = text[known].to_numpy(dtype=object).astype(np.float64)
    except ValueError:
        values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    return pd.Series(values, text.index)


def whole(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table, if it has rows and names each file, or object of a domain and label, once."""
    if not len(table):
        raise Mistake(f"{source}: holds no row; expected one a file")
    key = identity.keys_of_rows(table)
    if (twice := key.duplicated()).any():
        raise Mistake(
            f"{source}: names {key[twice].iloc[0]!r} twice ({twice.sum()} rows too many); expected each "
            f"{'file' if 'path' in table else 'object'} once"
        )
    return table


def read_arrays(labels: str, probs: str) -> pd.DataFrame:
    """The table of two NPY files [N], labels_ and probs_<split>.npy; paths are row numbers, domains empty."""
    label, prob = (array(path) for path in (labels, probs))
    if label.shape != prob.shape:
        raise Mistake(f"{labels}: {len(label)} labels, {probs}: {len(prob)} probabilities; expected as many")
    if not np.isin(label[~np.isnan(label)], [0, 1]).all():
        raise Mistake(f"{labels}: has labels other than 1, 0 and NaN (unknown)")
    if (outside := (prob < 0) | (prob > 1)).any():
        raise Mistake(
            f"{probs}: {prob[outside][0]:g} is no probability; expected 0 to 1, NaN where there is none"
        )
    paths = pd.Series(np.arange(len(label))).astype("str")
    return whole(pd.DataFrame(dict(path=paths, domain="", label=label, prob=prob)), probs)


def array(path: str) -> np.ndarray:
    """A flat NPY file as float64."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise Mistake(f"there is no file {path!r}: expected an NPY file, such as probs_val.npy") from error
    except (ValueError, EOFError, OSError) as error:
        if files.is_trouble(error):
            raise
        raise Mistake(f"{path}: cannot be read as an NPY file of numbers: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiub":
        raise Mistake(f"{path}: expected one row of numbers, [N]")
    return values.astype(np.float64)


def align_predictions(sources: list[str], match: str) -> tuple[pd.DataFrame, np.ndarray, str]:
    """The members of an ensemble in one order: (the first table, with object and band where a member knows
    them, prob [members, N], "path" or "name": what was matched).

    match: "path"; "name", the file's name without folders; or "auto": path, and name if the paths differ.
        Rows that are objects are matched by these.
    Raises Mistake if a member is given twice, names are ambiguous,
    files are missing or labels, domains, objects or bands disagree.
    """
    if len({Path(source).resolve() for source in sources}) < len(sources):
        raise Mistake(f"{' '.join(sources)}: a member is given twice; expected a file for each seed")
    tables = [read_predictions(source) for source in sources]
    of_files = ["path" in table for table in tables]
    if any(of_files) and not all(of_files):
        raise Mistake(
            f"{sources[of_files.index(False)]} has one row an object, {sources[of_files.index(True)]} one a "
            "file: give objects_<which>.csv of every member, or pred_<which>.csv"
        )
    keys = [pd.Index(identity.keys_of_rows(table).to_numpy(object)) for table in tables]
    if not any(of_files):
        match = "path"
    if (
        match == "name"
        or match == "auto"
        and any(
            len(key.symmetric_difference(keys[0], sort=False)) for key in keys[1:] if not key.equals(keys[0])
        )
    ):
        match = "name"
        keys = [pd.Index([PurePath(path).name for path in key]) for key in keys]
    else:
        match = "path"
    for key, source in zip(keys, sources):
        if not key.is_unique:
            raise Mistake(
                f"{source}: two files are named {key[key.duplicated()][0]!r}, so members cannot be matched "
                "by name; use --match path, and predictions of the same paths"
            )
    first = tables[0]
    names = keys[0].to_series(index=first.index)
    probs = [tables[0]["prob"].to_numpy()]
    for table, key, source in zip(tables[1:], keys[1:], sources[1:]):
        here, back = key.get_indexer(keys[0]), keys[0].get_indexer(key)
        for name, missing in ((source, keys[0][here < 0]), (sources[0], key[back < 0])):
            if len(missing):
                raise Mistake(
                    f"{name}: lacks {len(missing)} of the files that another member has (by {match}): "
                    + ", ".join(missing[:3])
                    + "; predict the same files with every member"
                )
        table = table.iloc[here].reset_index(drop=True)
        if "object" in table and "object" not in first:
            first = first.assign(object=table["object"], band=table["band"])
        for name in ("label", "domain", *(("object", "band") if "object" in table else ())):
            if (differ := (table[name] != first[name]) & (table[name].notna() | first[name].notna())).any():
                raise Mistake(
                    f"{source}: {name} of {names[differ].iloc[0]!r} is "
                    f"{table[name][differ].iloc[0]}, in {sources[0]} {first[name][differ].iloc[0]} "
                    f"({differ.sum()} files); expected the same inputs"
                )
        probs.append(table["prob"].to_numpy())
    return first, np.stack(probs), match


def combine_probabilities(probs: np.ndarray, how: str) -> np.ndarray:
    """[N] from [members, N]: the mean of probabilities, the mean of logits, or the median;
    over those that are there.
    """
    there = ~np.isnan(probs)
    out = np.full(probs.shape[1], np.nan)
    some = there.any(0)
    if how == "median":
        out[some] = np.nanmedian(probs[:, some], axis=0)
    else:
        values = logit(probs) if how == "logit" else probs
        out[some] = np.where(there, values, 0)[:, some].sum(0) / there[:, some].sum(0)
    return sigmoid(out) if how == "logit" else out


def fuse_predictions(table: pd.DataFrame, keys: list, how: str = "mean") -> pd.DataFrame:
    """One row for each distinct value of `keys` (columns or arrays), in order of first appearance.

    object is the first key; prob is the mean over its rows that have one (of logits if how = "logit"); label
    is the first that is known; domain that of its rows, "a+b" where there are two.
    """
    values = table.assign(prob=logit(table["prob"]) if how == "logit" else table["prob"])
    groups = values.groupby(keys, sort=False, dropna=False)
    out = groups.agg(domain_=("domain", "first"), label_=("label", "first"), prob=("prob", "mean"))
    domain = out["domain_"].to_numpy(dtype=object).copy()
    number = groups.ngroup().to_numpy()
    apart = table["domain"].to_numpy(dtype=object) != domain[number]
    if apart.any():
        some = np.isin(number, number[apart])
        joined = table["domain"][some].groupby(number[some]).agg(lambda names: "+".join(sorted(set(names))))
        domain[joined.index] = joined.to_numpy(dtype=object)
    prob = sigmoid(out["prob"]) if how == "logit" else out["prob"]
    fused = dict(object=out.index.get_level_values(0), domain=domain, label=out["label_"].array)
    return pd.DataFrame(fused | dict(prob=np.asarray(prob)))


def logit(prob):
    prob = np.clip(prob, EDGE, 1 - EDGE)
    return np.log(prob) - np.log1p(-prob)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def write_predictions(table: pd.DataFrame, path: Path, threshold: float | None = None) -> None:
    """path (object, where a row is one),domain,label,prob,pred; pred = prob >= threshold (empty without one);
    numbers are written to the last digit; ra and dec behind them, where the table has them.
    """
    label = table["label"].astype("Int8")
    pred = pd.array(table["prob"] >= (np.inf if threshold is None else threshold), "Int8")
    pred[(table["prob"].isna() | (threshold is None)).to_numpy()] = pd.NA
    row = "path" if "path" in table else "object"
    place = table[[name for name in ("ra", "dec") if name in table]]
    with files.whole(path) as temporary:
        table[[row, "domain"]].assign(label=label, prob=table["prob"], pred=pred).join(place).to_csv(
            temporary, index=False
        )
