"""Which files there are, and what their folders and names say:
bucket -> domain and label, name -> object and band.

The challenge hands out four folders (buckets); a manifest, a text file of one path a line, stands for a
folder wherever a folder can stand.
"""

import difflib
import os
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from data.bands import check_apart
from data.formats import Format
from data.listing import Folder, RealPaths, check_images, read_listing, skipped_files, walk_folders
from data.names import BLIND, NOT_CUTOUTS, SUFFIXES, named_files
from utils import distributed
from utils.messages import say
from utils.mistake import Mistake

BUCKETS = {
    "slsim_lenses": ("slsim", 1),
    "slsim_nonlenses": ("slsim", 0),
    "hsc_lenses": ("hsc", 1),
    "hsc_nonlenses": ("hsc", 0),
}
DOMAINS = ("slsim", "hsc")
NO_ALIASES: Mapping[str, str] = MappingProxyType({})
UNKNOWN = ("unknown", -1)  # domain and label of a file that no bucket, or more than one, vouches for

FORMATS = (
    Format(
        "FITS cutouts, a file a band",
        "a folder or a manifest; names `<object>_<band>.fits`, `.fit`, also with `.gz`",
        "the first HDU with an image; the band by its usual name (g, Y, VIS, F814W, HSC-G, u_CFHT ...; "
        "data/bands.py) or by `--band_alias`; a name without a band is an object of no named band",
        "two bands of an object that have one name; further HDUs that are named by bands are not read, and "
        "that is said: `convert.py fits` reads them",
    ),
)


def inventory_of_buckets(
    sources: Mapping[str, str | os.PathLike | None], aliases: Mapping[str, str] = NO_ALIASES
) -> pd.DataFrame:
    """One row an input file, buckets as given and names sorted,
    each real file once though it may be linked twice.

    sources: bucket name -> folder (walked, links followed) or manifest; None or "" leaves the bucket out.
    aliases: data/bands.read_aliases, of bands that the table of usual names does not know, or otherwise.
    Returns: columns path (as found), object, band, domain, label (int8: 1 lens, 0 not, -1 unknown). On what
        buckets that share a file disagree, and for the blind test on both,
        the domain is "unknown" and the label -1.
    Raises: Mistake for an unknown bucket, a folder that is missing or holds no cutout,
        a manifest that cannot be read, two bands of an object that have become one.
    """
    for bucket in sources:
        if bucket not in BUCKETS:
            raise Mistake(
                f"unknown bucket {bucket!r}: expected one of {', '.join(BUCKETS)}{_nearest(bucket, BUCKETS)}"
            )
    given = {bucket: source for bucket, source in sources.items() if source not in (None, "")}
    if not given:
        flags = ", ".join(f"--{bucket}" for bucket in BUCKETS)
        raise Mistake(f"no data: give at least one of {flags}, or --data FOLDER that holds them")
    return _table([(source, *BUCKETS[bucket], f"--{bucket}") for bucket, source in given.items()], aliases)


def inventory_of_images(folder: str | os.PathLike, aliases: Mapping[str, str] = NO_ALIASES) -> pd.DataFrame:
    """The inventory of a folder or manifest of unlabelled cutouts: domain "unknown", label -1;
    else as `inventory_of_buckets`.
    """
    return _table([(folder, *UNKNOWN, "--images")], aliases)


def find_buckets(root: str | os.PathLike) -> dict[str, str]:
    """The buckets that lie in a folder: bucket name -> path.

    Raises: Mistake if the folder is missing, holds none, or holds one that is nearly named like a missing
        bucket.
    """
    if not os.path.isdir(root):
        raise Mistake(
            f"--data {os.fspath(root)!r} is not a folder: expected one that holds {', '.join(BUCKETS)}"
        )
    there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    found = {bucket: os.path.join(root, bucket) for bucket in BUCKETS if bucket in there}
    for name in there:
        near = difflib.get_close_matches(name.lower(), BUCKETS.keys() - found.keys(), n=1, cutoff=0.85)
        if near and name not in BUCKETS:
            raise Mistake(f"--data {os.fspath(root)!r} holds {name!r} but no {near[0]!r}: rename the folder")
    if not found:
        raise Mistake(
            f"--data {os.fspath(root)!r} holds none of {', '.join(BUCKETS)}: name the folders with "
            "--slsim_lenses and its like"
        )
    return found


def duplicate_files(index: pd.DataFrame) -> pd.DataFrame:
    """The rows whose (object, band) occurs in more than one file, side by side: the challenge has some."""
    twice = index[index.duplicated(["object", "band"], keep=False)]
    return twice.sort_values(["object", "band"], kind="stable")


def _table(sources: list[tuple], aliases: Mapping[str, str]) -> pd.DataFrame:
    paths, real, domains, labels = [], [], [], []
    for source, domain, label, flag in sources:
        here = _files(source, flag)
        paths += [path for path, _ in here]
        real += [identity for _, identity in here]
        domains.append(np.full(len(here), domain, dtype=object))
        labels.append(np.full(len(here), label, dtype=np.int8))
    table = pd.DataFrame({"path": paths, "domain": np.concatenate(domains), "label": np.concatenate(labels)})
    table[["domain", "path"]] = table[["domain", "path"]].astype("str")
    table = _each_file_once(table, real)
    named = named_files(table["path"].tolist(), aliases)
    if named.bands != named.written:
        check_apart(zip(table["domain"], table["label"], named.objects), named.written, named.bands)
    table.insert(1, "object", pd.array(named.objects, dtype="str"))
    table.insert(2, "band", pd.array(named.bands, dtype="str"))
    blind = table["object"].str.fullmatch(BLIND.pattern).to_numpy(dtype=bool)
    if blind.any():
        table.loc[blind, ["domain", "label"]] = UNKNOWN
    return table.astype({"label": np.int8})


def _each_file_once(table: pd.DataFrame, real: list[str]) -> pd.DataFrame:
    number, unique = pd.factorize(np.array(real, dtype=object))
    if len(unique) == len(table):
        return table
    # numbers count up in order of appearance, so `first` does too
    first = np.unique(number, return_index=True)[1]
    once = table.iloc[first].reset_index(drop=True)
    for column, unknown in zip(("domain", "label"), UNKNOWN):
        code = pd.factorize(table[column])[0]
        disagree = np.zeros(len(unique), dtype=bool)
        disagree[number[code != code[first][number]]] = True
        once.loc[disagree, column] = unknown
    return once


def _files(source: str | os.PathLike, flag: str) -> list[tuple[str, str]]:
    """(path as found, real path) of each cutout of a folder or manifest."""
    source = os.fspath(source)
    check_images(source, flag)
    if not os.path.isdir(source):
        files = _listed(source, flag)
    else:
        folders = list(walk_folders(source, SUFFIXES, NOT_CUTOUTS))
        files = _walked(folders)
        others = skipped_files(folders)
        if others and not files:
            others = f" ({others})"
        elif others and distributed.rank() == 0:
            say(f"{flag}: {others}")
        if not files:
            raise Mistake(
                f"{flag} {source!r} holds no cutout: expected files named like D1_L_00000000_g.fits (or "
                f".fits.gz) in it or below it{others}"
            )
    if not files:
        raise Mistake(
            f"{flag} {source!r} lists no file: expected one path a line, relative to it or absolute"
        )
    return files


def _listed(manifest: str, flag: str) -> list[tuple[str, str]]:
    real = RealPaths()
    return [(path, real(path)) for paths in read_listing(manifest, flag) for path in paths]


def _walked(folders: list[Folder]) -> list[tuple[str, str]]:
    """Sorted as if folders and files were one list in each folder."""
    real = RealPaths()
    files = []
    for folder in folders:
        home = real.of_folder(folder.path)
        files += [
            (path, real(path) if name in folder.links else f"{home}/{name}")
            for name, path in zip(folder.names, folder.paths)
        ]
    if len(folders) > 1:
        files.sort(key=lambda file: file[0].split("/"))
    return files


def _nearest(word: str, known) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
