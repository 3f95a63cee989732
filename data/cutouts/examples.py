"""Examples made of the rows of a store: which file is which channel of which,
gathered a whole batch at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from contract import Batch, Examples
from data.cutouts.buckets import DOMAINS
from data.cutouts.store import Store

BAND_MODES = ("single", "stack")


@dataclass(frozen=True, eq=False)
class Cutouts(Examples):
    """Examples of a store, raw and in a fixed order; augmentation and preprocessing happen later,
    on the device.

    E examples, C channels, N rows of the store. `cutouts[i]` and `cutouts.__getitems__([i,
    ...])` are batched already:
    image    [B, C, H, W] float32, physical pixels, zero where the band is missing
    present  [B, C] bool
    label    [B] float32, 1, 0, or -1 unknown
    domain   [B] int64, 0 slsim, 1 hsc, -1 unknown
    index    [B] int64, the number of the example
    and whatever `columns` has.
    """

    store: Store
    rows: np.ndarray  # [E, C] int64, row of the store, -1 = the band is missing
    label: np.ndarray  # [E] float32
    domain: np.ndarray  # [E] int64
    bands: tuple[str, ...]  # "stack": the band of each channel; "single": the bands that were asked for
    band_mode: str
    # [N] int64, whose prediction a file gets; -1: quarantined, left out, not asked
    example_of_row: np.ndarray
    left_out: pd.DataFrame  # row, reason: the good files that were asked for and are in no example
    report: tuple[str, ...]  # lines for the log: examples, missing bands, what is left out
    # [E, ...] each: what else a batch holds (weight, metadata)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    uniform = True  # all of one shape (contract.py)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, examples: list[int]) -> Batch:
        index = np.asarray(examples, dtype=np.int64)
        rows = self.rows[index]
        present = rows >= 0
        image = self.store.read(rows)  # the one copy, [B, C, H, W]
        arrays = dict(
            image=image, present=present, label=self.label[index], domain=self.domain[index], index=index
        )
        arrays |= {name: column[index] for name, column in self.columns.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def __getitem__(self, example: int) -> Batch:
        if not -len(self) <= example < len(self):
            raise IndexError(f"example {example} of {len(self)}")
        return self.__getitems__([example % len(self)])

    @property
    def object(self) -> np.ndarray:
        """[E] str, the object id of each example."""
        return self.store.index["object"].to_numpy(dtype=object)[self.rows.max(axis=1, initial=-1)]

    def names(self, indices: Sequence[int]) -> list[str]:
        """What a person calls these examples: the object id, with its band if an example is one band."""
        first = self.store.index.iloc[self.rows[np.asarray(indices, dtype=np.int64)].max(axis=1, initial=-1)]
        named = self.band_mode == "single"
        return [
            f"{name}_{band}" if named and band else name for name, band in zip(first["object"], first["band"])
        ]

    def files(self, example: int) -> np.ndarray:
        """int64 rows of the index that get the prediction of this example:
        its channels, and duplicates of them.
        """
        return np.flatnonzero(self.example_of_row == example)


def make_examples(store: Store, rows: np.ndarray, bands: list[str], band_mode: str = "single") -> Cutouts:
    """The examples that some rows of a store make.

    rows: [n] int64 or [N] bool, rows of the index (a split, say).
    bands: those wanted, in the order of the channels of "stack".
    band_mode: "single": each good file of a wanted band, or of no named band, is an example of one channel;
        "stack": each (domain, label, object) is one, a channel a band; of a band that is there twice the
        first good file is used.
    Raises: ValueError for another band_mode.
    """
    if band_mode not in BAND_MODES:
        raise ValueError(f"band_mode {band_mode!r}: expected one of {BAND_MODES}")
    rows = np.asarray(rows)
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
    good = rows[store.good[rows]]
    names = store.index["band"].to_numpy(dtype=object)[good]
    channel = pd.Index(bands).get_indexer(names)  # [n] int64, -1 = not a wanted band
    report = []
    if band_mode == "single":
        channel[names == ""] = 0
    fits = channel >= 0
    used, left = good[fits], good[~fits]
    left_out = pd.DataFrame({"row": left, "reason": _why_left_out(names[~fits], bands)})
    if len(left):
        report.append(f"files in no example: {len(left):,} ({'; '.join(left_out['reason'].unique()[:3])})")
    if band_mode == "single":
        table = used[:, None]
        of_used = np.arange(len(used))
    else:
        table, of_used = _stack(store.index.iloc[used], used, channel[fits], len(bands))
        lost = len(_objects(store.index.iloc[rows]).unique()) - len(table)
        report += _report_stack(table, bands, len(used), lost)
    example_of_row = np.full(len(store.index), -1, dtype=np.int64)
    example_of_row[used] = of_used
    first = table.max(axis=1, initial=-1)  # any row of the example: they share label and domain
    label = store.index["label"].to_numpy(dtype=np.float32)[first]
    domain = (
        pd.Index(DOMAINS).get_indexer(store.index["domain"].to_numpy(dtype=object)[first]).astype(np.int64)
    )
    plural = "s" if table.shape[1] > 1 else ""
    what = f"{len(table):,} examples of {table.shape[1]} channel{plural}"
    report.insert(0, f"{what} from {len(used):,} of {len(rows):,} files")
    return Cutouts(
        store, table, label, domain, tuple(bands), band_mode, example_of_row, left_out, tuple(report)
    )


def _stack(
    index: pd.DataFrame, used: np.ndarray, channel: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """([E, C] rows, -1 where missing, examples in order of appearance; [n] the example of each used row)."""
    of_used = _objects(index).to_numpy().astype(np.int64)
    table = np.full((of_used.max(initial=-1) + 1, channels), -1, dtype=np.int64)
    places, first = np.unique(of_used * channels + channel, return_index=True)  # the first of duplicates
    table.ravel()[places] = used[first]
    return table, of_used


def _objects(index: pd.DataFrame) -> pd.Series:
    """[n] a number for each (domain, label, object)."""
    return index.groupby(["domain", "label", "object"], sort=False).ngroup()


def _report_stack(table: np.ndarray, bands: list[str], used: int, lost: int) -> list[str]:
    lines = []
    missing = (table < 0).sum(axis=0)
    if missing.any():
        each = ", ".join(f"{band} {count:,}" for band, count in zip(bands, missing) if count)
        incomplete = int((table < 0).any(axis=1).sum())
        lines.append(
            f"bands missing and masked: {each} (of {len(table):,} objects, {incomplete:,} are incomplete)"
        )
    if doubled := used - int((table >= 0).sum()):
        lines.append(f"files of a band that their object has already: {doubled:,} (the first is used)")
    if lost:
        lines.append(f"objects left out, without a good file of the bands {' '.join(bands)}: {lost:,}")
    return lines


def _why_left_out(names: np.ndarray, bands: list[str]) -> np.ndarray:
    why = {name: f"band {name} is not among {' '.join(bands)}" for name in set(names)}
    why[""] = "no band in the file name"
    return np.array([why[name] for name in names], dtype=object)
