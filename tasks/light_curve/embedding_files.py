"""The files that an embedding is written to, a frame of rows at a time: each is there whole or not at all."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.submission import unharmed
from utils import files

Sink = Callable[[pd.DataFrame], None]


@contextlib.contextmanager
def parquet_sink(path: Path) -> Iterator[Sink]:
    """What adds the rows of a frame to a Parquet file."""
    with files.whole(path) as temporary, contextlib.ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def add(frame: pd.DataFrame) -> None:
            if not writers:
                schema = pa.Schema.from_pandas(frame, preserve_index=False)
                writers.append(stack.enter_context(pq.ParquetWriter(temporary, schema)))
            writers[0].write_table(pa.Table.from_pandas(frame, writers[0].schema, preserve_index=False))

        yield add


NAMES = {"source": "object", "to": "object", "path": "path", "label": "label"}  # column -> what it holds


def guarded(frame: pd.DataFrame, escape: bool, warn: Callable[[str], None]) -> pd.DataFrame:
    """The frame with names that a spreadsheet would not run; see `unharmed`, and what it raises."""
    safe = {}
    for name in NAMES.keys() & set(frame):
        texts = frame[name].astype(str)
        there = texts != ""  # a file that is refused has no source
        safe[name] = texts.where(~there, unharmed(texts[there], NAMES[name], escape, warn))
    return frame.assign(**safe)


@contextlib.contextmanager
def csv_sink(path: Path, escape: bool) -> Iterator[Sink]:
    """The same for a table of text; numbers are as short as they can be without loss, names `guarded`."""
    with files.whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:

        def add(frame: pd.DataFrame) -> None:
            guarded(frame, escape, lambda _: None).to_csv(
                file, index=False, header=file.tell() == 0, lineterminator="\n"
            )

        yield add


@contextlib.contextmanager
def h5_sink(path: Path, count: int, texts: tuple[str, ...]) -> Iterator[Sink]:
    """The same for HDF5: z, s [N, L], and the other columns by name; those in `texts` are text."""
    import h5py

    with files.whole(path) as temporary, h5py.File(temporary, "w") as file:
        at = 0

        def place(name: str, values: np.ndarray) -> None:
            if name not in file:
                kind = h5py.string_dtype() if values.dtype == object else values.dtype
                file.create_dataset(name, (count, *values.shape[1:]), kind)
            file[name][at : at + len(values)] = values

        def add(frame: pd.DataFrame) -> None:
            nonlocal at
            for letter in "zs":
                units = [name for name in frame if name.startswith(f"{letter}_")]
                place(letter, frame[units].to_numpy(np.float32))
            for name in frame:
                if name in texts:
                    place(name, frame[name].to_numpy(dtype=object))
                elif not name.startswith(("z_", "s_")):
                    place(name, frame[name].to_numpy(np.float64, na_value=np.nan))
            at += len(frame)

        yield add
