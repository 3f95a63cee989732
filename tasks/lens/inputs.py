"""What the lens task is given: files or a store, the split by object, the bands,
and what is known besides the pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data import split
from data.bands import (
    SLOAN,
    check_apart,
    in_order,
    read_aliases,
    refuse_absent,
    renamed_as,
    said_of_bands,
    shell_word,
    unused_aliases,
    usual_name,
)
from data.catalogues.hdu_bands import said_of_unread_bands
from data.cutouts import buckets, examples as cutouts, groups, metadata, quality_table, store, truth
from data.names import is_blind, written_bands
from data.tar_shards import stream as streaming
from physics.lens_parameters import GEOMETRY, slices
from tasks.lens import units
from tasks.lens.config import inferred_quantities, metadata_columns
from utils import distributed
from utils.messages import say
from utils.mistake import Mistake


def from_store(
    config: Any, run_dir: Path, workers: int
) -> tuple[dict[str, cutouts.Cutouts], list[str], dict[str, Any]]:
    """(the examples of each split, the bands, what predict must know of the data)."""
    packed = open_inputs(config, workers)
    refuse_unlabelled(packed.index, f"--store {config.store!r}" if config.store else "the files")
    table, lines = known_truth(packed, config)
    about = truth.truth_metadata(table) if table is not None and packed.metadata is None else packed.metadata
    divided = divide_index(packed.index, config, about, packed.metadata is not None)
    index = divided.index
    bands = used_bands(index, config.bands)
    data = {
        name: with_columns(
            cutouts.make_examples(packed, rows_of_split(index, name, config), bands, config.band_mode),
            config,
            table,
        )
        for name in split.SPLITS
    }
    record = dict(bands=bands, files=len(index), digest=content_digest(index))
    trained_on = np.unique(data["train"].rows[data["train"].rows >= 0])
    units_known, unit_lines = units_of_training(config, packed, trained_on)
    if distributed.rank() == 0:
        say_summary(index, packed, data, run_dir, lines + divided.lines + unit_lines)
    return data, bands, record | divided.record | units_known


def units_of_training(
    config: Any, packed: store.Store, rows: np.ndarray
) -> tuple[dict[str, float], list[str]]:
    """(what predict must know of the units that the network depends on, lines for the log)."""
    about = {}
    scale, lines = units.pixel_scale_of(config, packed.pixel_scales, f"the store {packed.directory}")
    if units.measures_angles(config):
        about["pixel_scale"] = scale
    if units.depends_on_unit(config):
        about["spread"] = units.typical_spread(packed, rows)
        units.refuse_unit(config, about["spread"])
    return about, lines


def from_stream(config: Any) -> tuple[dict[str, streaming.Streamed], list[str], dict[str, Any]]:
    """The same of shards that are not packed."""
    others = [
        name
        for name in ("store", "use_metadata", "quality_weight", "regression", "balance")
        if getattr(config, name)
    ] + list(config.sources())
    if others:
        raise Mistake(
            f"--stream {config.stream!r} and --{others[0]}: not together; pack the shards into a store "
            "(convert.py shards --from) for that"
        )
    if inferred_quantities(config) and not config.use_physics:
        raise Mistake(
            f"--stream {config.stream!r}: shards tell nothing of what --model {config.model} infers; give a "
            "store, or --use_physics, from which it learns alone"
        )
    aliases = read_aliases(config.band_alias)
    stream = streaming.open_stream(config.stream, config.bands, config.band_mode, aliases)
    if list(stream.manifest["shape"]) != [config.image_size] * 2:
        raise Mistake(
            f"--image_size: got {config.image_size}, but the images of --stream {config.stream!r} have "
            f"{'x'.join(map(str, stream.manifest['shape']))} pixels"
        )
    known = pd.DataFrame(dict(object=stream.object, label=stream.label))
    refuse_unlabelled(known, f"--stream {config.stream!r}")
    divided = divide_index(known, config)
    index = divided.index
    data = {name: stream.part(rows_of_split(index, name, config)) for name in split.SPLITS}
    scale, lines = units.pixel_scale_of(config, {}, f"--stream {config.stream}")
    about = dict(pixel_scale=scale) if units.measures_angles(config) else {}
    if distributed.rank() == 0:
        for line in lines:
            say(line)
        say(
            f"{len(stream.manifest['shards']):,} shards of {config.stream}, bands {' '.join(stream.bands)}: "
            + ", ".join(f"{name} {len(part):,}" for name, part in data.items())
        )
        say("split by object id alone: the table of shards tells no groups and no places on the sky")
        for line in divided.lines:
            say(line)
    return (
        data,
        list(stream.bands),
        dict(bands=list(stream.bands), files=len(stream), digest=stream.manifest["digest"])
        | divided.record
        | about,
    )


def open_inputs(config: Any, workers: int) -> store.Store:
    """The store of the labelled inputs, given as such or packed now, its bands as --bands names them."""
    if not config.store:
        table = buckets.inventory_of_buckets(config.sources(), read_aliases(config.band_alias))
        return with_names_of(pack_inputs(table, config, workers), config.bands)
    if sources := config.sources():
        raise Mistake(
            f"--store {config.store!r} and --{next(iter(sources))}: give the store or FITS files, not both"
        )
    found = store.open_store(config.store)
    if list(found.manifest["shape"]) != [config.image_size] * 2:
        raise Mistake(
            f"--image_size: got {config.image_size}, but the images of --store {config.store!r} have "
            f"{'x'.join(map(str, found.manifest['shape']))} pixels"
        )
    if found.manifest["max_blank"] != config.max_blank and distributed.rank() == 0:
        say(
            f"--max_blank {config.max_blank:g}: --store {config.store!r} was packed with "
            f"{found.manifest['max_blank']:g}, which holds"
        )
    aliases = read_aliases(config.band_alias)
    called = {
        band: aliases.get(band, aliases.get(usual_name(band), band)) for band in found.index["band"].unique()
    }
    if (unused := unused_aliases(aliases, called)) and distributed.rank() == 0:
        say(f"--band_alias {' '.join(unused)}: --store {config.store!r} has no such band")
    return with_names_of(with_bands(found, called), config.bands)


def with_bands(packed: store.Store, called: dict[str, str]) -> store.Store:
    """The store with its bands under other names. Raises: Mistake where two of an object become one."""
    if all(theirs == ours for theirs, ours in called.items()):
        return packed
    index = packed.index
    bands = index["band"].map(lambda band: called.get(band, band))
    check_apart(zip(index["domain"], index["label"], index["object"]), index["band"], bands)
    return replace(packed, index=index.assign(band=pd.array(bands, dtype="str")))


def with_names_of(packed: store.Store, wanted: list[str]) -> store.Store:
    """The store with its bands under the names that `wanted` gives the same bands, HSC-G for g."""
    called = renamed_as(wanted, packed.index["band"].unique())
    if called and distributed.rank() == 0:
        same = ", ".join(f"{theirs} of the data is {ours}" for theirs, ours in called.items())
        say(f"the same bands by another name: {same}")
    return with_bands(packed, called)


def pack_inputs(table: pd.DataFrame, config: Any, workers: int) -> store.Store:
    """The store of these files, packed now or earlier."""
    if distributed.rank() == 0:
        for line in lines_of_names(table, read_aliases(config.band_alias)):
            say(line)
    shape = (config.image_size, config.image_size)
    digest = store.inventory_digest(table, shape, config.max_blank)
    return store.pack_cutouts(
        table,
        store.store_directory(config.store_dir, table, shape, digest),
        shape,
        max(1, workers),
        digest,
        max_blank=config.max_blank,
    )


def lines_of_names(table: pd.DataFrame, aliases: dict[str, str]) -> list[str]:
    """What to say of the bands that the names of files gave, and of those that no name gives."""
    written = written_bands(table["path"], table["band"], aliases)
    lines = []
    if set(written) - {*SLOAN, ""}:  # not just those that everybody knows
        lines.append(f"bands of the file names: {said_of_bands(written, table['band'])}")
    if unused := unused_aliases(aliases, written):
        lines.append(f"--band_alias {' '.join(unused)}: no file name has such a band")
    without = table["path"][table["band"] == ""]
    if len(without) and (line := said_of_unread_bands(without.iloc[0], aliases)):
        lines.append(line)
    return lines


def refuse_other_bands(index: pd.DataFrame, bands: list[str], band_mode: str) -> None:
    """Raises: Mistake where a network of these bands finds none of them among the files of an index."""
    counts = index["band"].value_counts().to_dict()
    # a file that names no band is what a network of single bands takes
    if not (band_mode == "single" and "" in counts):
        refuse_absent(bands, counts, "the network", "the data")


def content_digest(index: pd.DataFrame) -> str:
    """What the data are, wherever they lie: the digest of all names, labels, splits and refusals."""
    table = index[["object", "band", "domain", "label", "split", "reason"]].to_csv(index=False)
    return hashlib.blake2b(table.encode(), digest_size=16).hexdigest()


def refuse_unlabelled(index: pd.DataFrame, what: str) -> None:
    """Raises Mistake where there is nothing to learn from."""
    labels = set(index["label"].unique().tolist())
    if not labels & {0, 1}:
        raise Mistake(
            f"no labels: none of the {len(index):,} images of {what} is known to be a lens (1) or none (0); "
            "give convert.py a table with labels (--columns label=NAME), or the four folders. A trained "
            "network is asked of them by predict.py --which blind"
        )
    if len(labels & {0, 1}) < 2:
        there, lacking = ("lens", "non-lens") if 1 in labels else ("non-lens", "lens")
        raise Mistake(
            f"labels of one class: each labelled image of {what} is a {there}, none a {lacking}; expected "
            "both"
        )


class Divided(NamedTuple):
    """An index with its column `split`."""

    index: pd.DataFrame
    lines: list[str]  # for the log: groups, and who was moved for a rare class
    record: dict[str, Any]  # `moved`: object -> split, where that is not what the hash of its name says


def divide_index(
    index: pd.DataFrame, config: Any, about: pd.DataFrame | None = None, kept: bool = False
) -> Divided:
    """Every object in a split: by the hash of its id or `group`; what lies at one place is together, and each
    split has some of a rare class. An unlabelled file can only be tested.

    about: a row an object, with `group`, `ra`, `dec` as far as they are known. kept: whether the store has
        it, so that predict finds the groups there and the record need not name their objects.
    """
    number, objects = pd.factorize(index["object"].to_numpy(dtype=object))
    named = groups.group_names(objects, about)
    joined, lines = groups.joined_names(objects, named, about, config.match_radius)
    of_object, units = pd.factorize(joined)

    # What the challenge tests blindly stays a test, and with it whatever is the same galaxy.
    blind = np.array([is_blind(name) for name in objects], dtype=bool)
    fixed = np.zeros(len(units), dtype=bool)
    fixed[of_object[blind]] = True
    by_hash = np.where(fixed, "test", split.split_of(units, config))

    label = index["label"].to_numpy()
    good = (index["reason"] == "").to_numpy() if "reason" in index else np.ones(len(index), dtype=bool)
    has = {}
    for value in split.CLASSES:
        has[value] = np.zeros(len(units), dtype=bool)
        has[value][of_object[number[good & (label == value)]]] = True
    splits, moves = split.fill_empty_splits(by_hash, units, has, fixed, config)
    of_each = splits[of_object]
    usual = named if kept else objects
    as_usual = by_hash[of_object] if (joined == usual).all() else hashed_split(objects, usual, config)
    differ = of_each != as_usual
    moved = dict(zip(objects[differ].tolist(), of_each[differ].tolist()))
    divided = index.assign(split=np.where(label < 0, "test", of_each[number]))
    return Divided(divided, lines + moves, dict(moved=moved) if moved else {})


def hashed_split(objects: np.ndarray, names: np.ndarray, config: Any) -> np.ndarray:
    """[U] str, the split by the hash of each name; the blind test is a test."""
    blind = np.array([is_blind(name) for name in objects], dtype=bool)
    return np.where(blind, "test", split.split_of(names, config))


def split_index(
    index: pd.DataFrame,
    config: Any,
    about: pd.DataFrame | None = None,
    record: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """The index with its `split` column as a run had it: what its record says, else the hash of the id or
    group.

    about: as in `divide_index`. record: what a checkpoint knows of the data.
    """
    number, objects = pd.factorize(index["object"].to_numpy(dtype=object))
    splits = hashed_split(objects, groups.group_names(objects, about), config)
    if moved := (record or {}).get("moved"):
        recorded = pd.Series(objects, dtype=object).map(moved)
        splits = np.where(recorded.notna(), recorded, splits)
    return index.assign(split=np.where(index["label"].to_numpy() < 0, "test", splits[number]))


def known_truth(packed: store.Store, config: Any) -> tuple[pd.DataFrame | None, list[str]]:
    """(the tables of parameters that lie beside the files, as far as they are of use; lines for the log)."""
    needed = config.use_metadata or inferred_quantities(config)
    if not needed and (packed.metadata is not None or not config.match_radius):
        return None, []
    try:
        return truth.read_truth(packed.index["path"]), []
    except Mistake as mistake:
        if needed:
            raise
        # one who asks for nothing of it need not mend it
        return None, [f"places on the sky are not known, so duplicates were not looked for: {mistake}"]


def used_bands(index: pd.DataFrame, wanted: list[str]) -> list[str]:
    there = in_order(index["band"].unique())
    if missing := [band for band in wanted if band not in there]:
        named = [band for band in there if band]
        cure = (
            f"; which is which is said by --band_alias {shell_word(f'{named[0]}={missing[0]}')}"
            if named
            else ""
        )
        raise Mistake(
            f"--bands: {missing[0]!r} is in no file name; there are {', '.join(named) or 'none'}{cure}"
        )
    return list(wanted) or there


def rows_of_split(index: pd.DataFrame, name: str, config: Any) -> np.ndarray:
    """Rows of the index that belong to a split and are taken; training and validation need a label."""
    rows = np.flatnonzero((index["split"] == name) & (index["label"] >= 0))
    kept = split.kept_share(
        index["object"].iloc[rows], config.split_seed, getattr(config, f"take_{name}_frac")
    )
    return rows[kept]


def with_columns(
    examples: cutouts.Cutouts, config: Any, table: pd.DataFrame | None = None
) -> cutouts.Cutouts:
    """The examples with what is asked for of their objects: metadata and metadata_mask [B, M], targets [B,
    P] to train on, weight [B].

    table: data/cutouts/truth.read_truth of their folders; without it there are no targets.
    """
    columns = {}
    objects = examples.object
    if config.use_metadata:
        about = examples.store.metadata
        if about is None:
            about = metadata.typed_metadata(
                truth.truth_metadata(
                    truth.read_truth(examples.store.index["path"]) if table is None else table
                )
            )
        about = about.set_index("object").reindex(objects).reset_index()
        columns["metadata"], columns["metadata_mask"] = metadata.metadata_arrays(
            about, metadata_columns(config)
        )
    if table is not None and (names := inferred_quantities(config)):
        columns["targets"] = truth.truth_components(table, objects, names)
        columns["targets"][examples.label != 1] = np.nan
    if config.quality_weight:
        weight = quality_table.quality_of(examples.store, say)["weight"].to_numpy(np.float32)
        there = examples.rows >= 0
        columns["weight"] = np.where(there, weight[examples.rows], 0).sum(1) / there.sum(1)
    return replace(examples, columns=columns)


def quantities_without_truth(config: Any, data: cutouts.Cutouts | streaming.Streamed) -> list[str]:
    """The inferred quantities that nothing is learnt of: no lens that training is told of has them, and no
    lens model is fitted that would teach them (--use_physics).
    """
    told = np.asarray(data.label) == 1
    if config.label_domain:
        told &= np.asarray(data.domain) == buckets.DOMAINS.index(config.label_domain)
    names = inferred_quantities(config)
    by_itself = GEOMETRY if config.use_physics and config.physics_weight and told.any() else ()
    targets = data.columns.get("targets") if config.regression_weight else None
    known = {
        name: targets is not None and np.isfinite(targets[told, place]).all(1).any()
        for name, place in slices(names).items()
    }
    return [name for name in names if not (known[name] or name in by_itself)]


def say_summary(
    index: pd.DataFrame,
    packed: store.Store,
    data: dict[str, cutouts.Cutouts],
    run_dir: Path,
    told: Sequence[str] = (),
) -> None:
    """Say what was found, what was refused and how even the split is; keep the split beside the run.
    told: further lines.
    """
    shares, warnings = split.stratification(index)
    twice = buckets.duplicate_files(index)
    bands = said_of_bands(index["band"], index["band"])
    lines = [f"{len(index):,} files, {index['object'].nunique():,} objects, bands {bands}"]
    lines += (
        [f"{name}: {line}" for name, examples in data.items() for line in examples.report]
        + packed.summary()
        + warnings
        + [*told]
    )
    if len(twice):
        lines.append(f"{len(twice)} files share object and band with another: see {run_dir}/duplicates.csv")
        twice.to_csv(run_dir / "duplicates.csv", index=False)
    print("\n".join(lines), flush=True)
    index[["path", "object", "band", "domain", "label", "split", "reason"]].to_parquet(
        run_dir / "split.parquet"
    )
    shares.to_csv(run_dir / "split.csv", index=False)
