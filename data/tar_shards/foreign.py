"""Samples of shards that others wrote: which member is what, and what there is to say of it.

    .npy                     the image: [H, W], [C, H, W] or [H, W, C] of any real numbers, stored as float32;
                             which of the last two it is the shape says (data/channel_order.py), or channels
    .png, .jpg, .jpeg        the image where there is no .npy: red, green, blue, or grey (data/pictures.py)
    .cls, .label, .txt       the label, a whole number: 1 lens, 0 none, -1 unknown; the first that is there;
                             labelled=False: not asked
    .json                    object, domain, label, bands (a list, or one text), and numbers or texts for the
                             metadata: of a field of data/cutouts/metadata.py under its name,
                                 else as tar_shards_<name>; lists and objects in it are passed over

What is missing is: object the key (id_column: another field of the JSON), domain `domain`, label -1, bands
`bands`, else red, green, blue of a picture, "" for one channel, "0", "1", ... for many. Other members are
passed over and counted, pickles refused. Images of another size than the first, and those with pixels that
are not finite, are quarantined.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from data.catalogues.resample import shape_text
from data.channel_order import both_readings, channel_order, checked_order, order_lines
from data.cutouts.fits import BadFile
from data.cutouts.metadata import field_of
from data.pictures import NO_FLUX, Picture, picture_bands, picture_of
from data.tar_shards.members import (
    HEAD,
    MOST_JSON,
    MOST_TEXT,
    Layout,
    integer,
    is_pickle,
    npy_layout,
    strict_json,
)
from data.tar_shards.records import checked_record
from data.tar_shards.tar import Member, clean, refused
from utils.messages import first_of
from utils.mistake import Mistake

LABELS = ("cls", "label", "txt")
PICTURES = ("png", "jpg", "jpeg")
ID_NAMES = {"object_id", "objid", "obj_id", "iauname", "source_id", "sourceid", "id_str", "id", "name"}
PREFIX = "tar_shards_"
MOST_COLUMNS = 1000
LARGEST_EXACT = 2**53  # a float64 holds every whole number up to it


class Sample(NamedTuple):
    """What is known of a sample before its pixels are read."""

    record: dict[str, Any]  # data/tar_shards/records.py, and metadata
    named: bool  # by its JSON; else its object is its key
    member: Member
    layout: Layout | Picture | None  # None: nothing of it can be read, and its reason says why


class ForeignSamples:
    """Reads samples by the rules above, and counts what it took, guessed and passed over."""

    def __init__(self, bands: Sequence[str], channels: str, labelled: bool, domain: str, id_column: str):
        self.bands = list(bands)
        self.channels = checked_order(channels)
        self.labelled = labelled
        self.domain = domain
        self.id_column = id_column
        self.shape: tuple[int, ...] = ()  # of the images, that of the first
        self.usual: list[str] = []  # the bands of the first sample
        self.samples = self.unnamed_bands = self.by_key = self.differing = 0
        self.orders: Counter = Counter()  # {(shape, order): arrays whose order the shape said}
        self.first_with: dict[str, str] = {}  # {order: the first sample that has it}
        self.labels: Counter = Counter()  # {(member, label): samples}
        self.kinds: Counter = Counter()  # {"picture", "alpha", "uint8": samples}
        self.unused: Counter = Counter()  # {suffix: members}
        self.fields_unused: Counter = Counter()  # {name: samples} of the JSON
        self.fields: Counter = Counter()  # {name: samples} that could be the id

    def sample(self, file: BinaryIO, key: str, parts: dict[str, Member], path: str, row: int) -> Sample:
        """A sample whose first image is row `row` of the index. Raises: Mistake."""
        suffix = _image_suffix(file, key, parts, path)
        member = parts[suffix]
        told: dict[str, Any] = {}
        if "json" in parts:
            told = strict_json(head(file, parts["json"], MOST_JSON + 1), path, parts["json"].name)
            if not isinstance(told, dict):
                raise refused(
                    path, parts["json"].name, "is a list or a single value: expected an object of JSON"
                )
        bands = told.pop("bands", None)
        bands = self.bands or None if bands is None else bands
        layout, reason = self._layout(file, member, suffix, path, _band_count(bands))
        count = layout.planes[0] if layout else len(self.usual)
        self.shape = self.shape or (layout.planes[1:] if layout else ())
        if layout and layout.planes[1:] != self.shape:
            reason = f"is {shape_text(layout.planes[1:])}, expected {shape_text(self.shape)}"
        label = self._label(file, parts, told, path, f"{path}: sample {clean(key)}")
        self.unused.update(name for name in parts if name not in (suffix, "json", self._label_suffix(parts)))
        name = told.pop(self.id_column or "object", None)
        if self.id_column and name is None:
            raise Mistake(f"{path}: sample {clean(key)}: its JSON has no {self.id_column!r} (--id_column)")
        self.samples += 1
        self.by_key += name is None
        self.fields.update(ID_NAMES & told.keys())
        self.unnamed_bands += bands is None and count > 1 and not isinstance(layout, Picture)
        named_bands = _named_bands(bands, count, layout) if layout else bands or self.usual
        self.usual = self.usual or named_bands
        record = dict(
            object=str(key if name is None else name),
            domain=told.pop("domain", self.domain),
            label=label,
            bands=named_bands,
            paths=[f"{os.path.basename(path)}#{key}"] * count,
            reasons=[reason] * count,
            rows=list(range(row, row + count)),
        )
        checked_record(record, row + count, count, f"{path}: sample {clean(key)}")
        return Sample(record | {"metadata": self._metadata(told)}, name is not None, member, layout)

    def _layout(
        self, file: BinaryIO, member: Member, suffix: str, path: str, count: int
    ) -> tuple[Layout | Picture | None, str]:
        """(how the planes lie, why they cannot be used)."""
        if suffix.split(".")[-1] in PICTURES:
            self.kinds["picture"] += 1
            try:
                picture = picture_of(head(file, member, member.size))
            except BadFile as error:
                if not self.usual:
                    raise refused(path, member.name, str(error)) from None
                return None, str(error)
            self.kinds["alpha"] += picture.alpha
            return picture, ""
        layout = npy_layout(head(file, member, HEAD), member.size, path, member.name)
        self.kinds["uint8"] += layout.dtype == np.uint8
        if len(layout.shape) == 2:
            return layout, ""
        order = self.channels
        if order == "auto":
            order = channel_order(layout.shape, count)
            if not order:
                raise refused(
                    path, member.name, f"is of shape {list(layout.shape)}, {both_readings(layout.shape)}"
                )
            self.orders[layout.shape, order] += 1
            self.first_with.setdefault(order, member.name)
            if len(self.first_with) > 1:
                named = " and ".join(
                    f"{clean(found)} [{'C, H, W' if which == 'first' else 'H, W, C'}]"
                    for which, found in self.first_with.items()
                )
                raise Mistake(
                    f"{path}: by their shapes samples lie differently, {named}: say --channels first or "
                    "--channels last"
                )
        return layout._replace(channels_last=order == "last"), ""

    def _label_suffix(self, parts: dict[str, Member]) -> str | None:
        suffix = next((suffix for suffix in LABELS if suffix in parts), None)
        return suffix if self.labelled or suffix != "txt" else None

    def _label(
        self, file: BinaryIO, parts: dict[str, Member], told: dict[str, Any], path: str, where: str
    ) -> int:
        suffix = self._label_suffix(parts)
        number = None
        if suffix:
            number = integer(head(file, parts[suffix], MOST_TEXT + 1), path, parts[suffix].name)
        if not self.labelled:
            if number is not None:
                told["cls"] = number
            return -1
        said = {
            name: value
            for name, value in ((".json", told.pop("label", None)), (f".{suffix}", number))
            if value is not None
        }
        for value in said.values():
            if isinstance(value, (list, dict, str)) or value not in (0, 1, -1):
                raise Mistake(
                    f"{where}: label is {str(value)[:40]!r}: expected 1, 0 or -1; --no_labelled keeps "
                    f"classes as {PREFIX}cls or {PREFIX}label"
                )
        known = {int(value) for value in said.values() if value != -1}
        label = known.pop() if len(known) == 1 else -1
        self.differing += len(known) > 1
        self.labels[" and ".join(said), label] += 1
        return label

    def _metadata(self, told: dict[str, Any]) -> dict[str, Any]:
        flat = {
            name: value
            for name, value in told.items()
            if value is None or isinstance(value, (int, float, str))
        }
        self.fields_unused.update(told.keys() - flat.keys())
        return {name if field_of(name) else PREFIX + name: value for name, value in flat.items()}

    def report(self) -> list[str]:
        """Lines for the log: what was taken for what."""
        lines = order_lines(self.orders, ".npy members")
        if self.kinds["picture"]:
            lines.append(f"{self.kinds['picture']:,} pictures (PNG or JPEG): {NO_FLUX}")
        if self.kinds["alpha"]:
            lines.append(f"an alpha plane is left out of {self.kinds['alpha']:,} pictures")
        if self.kinds["uint8"]:
            lines.append(
                f"{self.kinds['uint8']:,} .npy members are uint8, numbers of 0 to 255 as of a picture: no "
                "physical flux"
            )
        if self.unnamed_bands:
            lines.append(
                f"{self.unnamed_bands:,} samples do not name their bands: 0, 1, 2 ... (--bands g r i names "
                "them)"
            )
        if self.by_key:
            others = (
                f"; their JSON has also {first_of(sorted(self.fields))} (--id_column)" if self.fields else ""
            )
            lines.append(f"{self.by_key:,} samples do not name their object: it is their key{others}")
        lines.append(self._label_line())
        if self.differing:
            lines.append(f"labels of a sample that differ, taken for unknown: {self.differing:,}")
        if self.unused:
            lines.append(f"members not used: {_counted(self.unused, '.')}")
        if self.fields_unused:
            lines.append(f"lists and objects in the JSON, not used: {_counted(self.fields_unused)}")
        return lines

    def _label_line(self) -> str:
        if not self.labelled:
            return (
                f"labels are not asked for (--no_labelled): classes are kept as {PREFIX}cls or {PREFIX}label"
            )
        of_member: dict[str, Counter] = {}
        for (member, label), count in self.labels.items():
            of_member.setdefault(member, Counter())[label] += count
        parts = [
            f"{member} of {counts.total():,} samples ({counts[1]:,} lenses, {counts[0]:,} none, "
            f"{counts[-1]:,} unknown)"
            for member, counts in of_member.items()
            if member
        ]
        return (
            f"labels: {'; '.join(parts)}" if parts else "the samples have no labels: every one is -1, unknown"
        )


def _counted(counts: Counter, before: str = "", most: int = 6) -> str:
    named = [f"{before}{clean(name)[1:-1]} {count:,}" for name, count in counts.most_common(most)]
    return ", ".join(named) + (", ..." if len(counts) > most else "")


def _band_count(bands: Any) -> int:
    """How many bands are named, 0 where that is not plain."""
    if isinstance(bands, str):
        return len(bands.split()) if " " in bands else len(bands)
    return len(bands) if isinstance(bands, list) else 0


def _named_bands(bands: Any, count: int, layout: Layout | Picture | None) -> Any:
    if bands is None:
        if isinstance(layout, Picture):
            return picture_bands(count)
        return [""] if count == 1 else [str(number) for number in range(count)]
    if isinstance(bands, str):
        if " " in bands:
            return bands.split()
        return list(bands) if len(bands) == count else [bands]
    return bands


def _image_suffix(file: BinaryIO, key: str, parts: dict[str, Member], path: str) -> str:
    """Of the member that is the image: .npy before pictures."""
    arrays = [suffix for suffix in parts if suffix == "npy" or suffix.endswith(".npy")]
    pictures = [suffix for suffix in parts if suffix.split(".")[-1] in PICTURES]
    for suffix in parts.keys() - set(arrays) - {"json", *LABELS}:
        if is_pickle(head(file, parts[suffix], 2)):
            raise refused(
                path,
                parts[suffix].name,
                "is a pickle, which can run any program: expected npy, json and text",
            )
    if "npy" in parts:
        return "npy"
    if len(arrays) == 1:
        return arrays[0]
    if not arrays and pictures:
        bare = [suffix for suffix in pictures if suffix in PICTURES]
        if len(chosen := bare or pictures) == 1:
            return chosen[0]
        raise refused(
            path,
            key,
            f"has {len(chosen)} pictures ({', '.join(sorted(chosen))[:80]}): expected one, or an .npy",
        )
    cure = "; an .npz is not opened: save its array as .npy" if "npz" in parts else ""
    raise refused(
        path,
        key,
        f"has {len(arrays) or 'no'} .npy members ({', '.join(sorted(parts))[:80]}): expected one, or one "
        f"named just .npy, or a picture (.png, .jpg){cure}",
    )


def head(file: BinaryIO, member: Member, most: int) -> bytes:
    """The first bytes of a member, at most so many."""
    file.seek(member.start)
    return file.read(min(member.size, most))


def metadata_table(objects: list[dict[str, Any]]) -> pd.DataFrame:
    """One row an object; a column is of numbers where a float64 holds all that is there, else of text.

    Raises: Mistake for too many columns.
    """
    names = list(dict.fromkeys(name for values in objects for name in values))
    if len(names) > MOST_COLUMNS:
        raise Mistake(
            f"the JSON of the samples has {len(names):,} different fields: expected at most "
            f"{MOST_COLUMNS:,}; leave them out of it"
        )
    columns = {}
    for name in names:
        values = [values.get(name) for values in objects]
        if all(value is None or _is_number(value) for value in values):
            columns[name] = np.array(
                [np.nan if value is None else value for value in values], dtype=np.float64
            )
        else:
            columns[name] = pd.array(["" if value is None else str(value) for value in values], dtype="str")
    return pd.DataFrame(columns)


def _is_number(value: Any) -> bool:
    """A long id is none: its last digits would be lost."""
    return type(value) is float or type(value) is int and abs(value) <= LARGEST_EXACT
