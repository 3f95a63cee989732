"""A prediction in parts: each is written whole, so that an interrupted prediction goes on where it was, and
read one after another, so that no more than a few need memory at once.
"""

import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from contract import Batch, Columns, Examples, concatenated
from data.order import read_shares
from data.packing import write_arrays_durably
from utils.mistake import Mistake
from utils.transfer import copied_ahead

PART = 8192  # examples of a part at most: what an interruption can cost, and what ranks share
PART_BYTES = 2**26  # ... and bytes, where an answer is large
KEPT = 4  # parts that are kept in memory for whoever asks for single examples


def how_cut() -> tuple[int, int]:
    """For whoever names a folder of parts: those of another cut are not these."""
    return PART, PART_BYTES


class Parts:
    """What was predicted of `total` examples, on the disk in parts of `size` each."""

    def __init__(self, folder: Path, total: int, size: int):
        self.folder = folder
        self.total = total
        self.size = size
        self.part = lru_cache(KEPT)(self.read_part)

    def __len__(self) -> int:
        """Examples, not parts."""
        return self.total

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The columns of each part [n, ...], in the order of the examples."""
        return (self.read_part(number) for number in range(-(-self.total // self.size)))

    def take(self, examples: np.ndarray, *names: str) -> dict[str, np.ndarray]:
        """The columns `names` (all, if none is named) of some examples, [n,
        ...] each in the order of `examples`.
        """
        examples = np.asarray(examples, dtype=np.int64)
        numbers, of_part = np.unique(examples // self.size, return_inverse=True)
        taken: dict[str, np.ndarray] = {}
        for place, number in enumerate(numbers.tolist() or [0]):
            here = np.flatnonzero(of_part == place)
            part = self.part(number)
            for name in names or part:
                rows = part[name][examples[here] - number * self.size]
                if name not in taken:
                    taken[name] = np.empty((len(examples), *rows.shape[1:]), rows.dtype)
                taken[name][here] = rows
        return taken

    def columns(self) -> dict[str, np.ndarray]:
        """All columns whole, [total, ...] each: for answers that are known to be small."""
        parts = list(self)
        names = parts[0] if parts else ()
        return {name: np.concatenate([*map(itemgetter(name), parts)]) for name in names}

    def read_part(self, number: int) -> dict[str, np.ndarray]:
        """Raises Mistake for a part that the disk does not give back."""
        path = part_path(self.folder, number * self.size)
        columns = read_columns(path)
        expected = min(self.size, self.total - number * self.size)
        if any(len(column) != expected for column in columns.values()):
            raise Mistake(f"{path} is of another prediction: remove it and run the same command again")
        return columns


def read_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as part:
            return dict(part)
    except FileNotFoundError:
        raise Mistake(f"parts are gone from {path.parent}: run the same command again") from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise Mistake(f"{path} is damaged ({error}): remove it and run the same command again") from error


@torch.no_grad()
def predict_parts(
    data: Examples,
    ask: Callable[[Batch], Columns],
    batch_size: int,
    workers: int,
    device: torch.device,
    folder: Path,
    total: int,
    rank: int = 0,
    ranks: int = 1,
) -> Parts:
    """Write `ask(batch)` of every part of the first `total` examples that is not there yet.

    Rank r does the r-th of every `ranks` parts; another rank's may not be there yet when this returns.
    """
    first, size = first_answer(data, ask, batch_size, device, folder, total)
    with tqdm(total=total, unit="example", disable=rank > 0 or not sys.stderr.isatty()) as bar:
        for start in range(rank * size, total, size * ranks):
            path = part_path(folder, start)
            stop = min(start + size, total)
            if not path.exists():
                done = [first] if first and not start and batch_size <= size else []
                begin = start + batch_size * len(done)
                shares = (np.arange(at, min(at + batch_size, stop)) for at in range(begin, stop, batch_size))
                batches = copied_ahead(read_shares(data, shares, workers, device), device)
                write_part(path, done + [ask(batch) for batch, _ in batches])
            first = {}  # a large answer need not stay
            bar.update(min(total - bar.n, (stop - start) * ranks))
    return Parts(folder, total, size)


def first_answer(
    data: Examples,
    ask: Callable[[Batch], Columns],
    batch_size: int,
    device: torch.device,
    folder: Path,
    total: int,
) -> tuple[Columns, int]:
    """What is answered of the first batch, and the examples of a part, which follow from its bytes.

    So every rank and every attempt agree. Where the first part is there, it says so, and nothing is asked.
    """
    if not total:
        return {}, PART
    begun = part_path(folder, 0)
    if begun.exists():
        return {}, len(next(iter(read_columns(begun).values())))
    some = np.arange(min(batch_size, total))
    batch, _ = next(read_shares(data, [some], 0, device))
    answer = ask(batch)
    bytes_each = sum(column.nbytes for column in answer.values()) / len(some)
    return answer, int(np.clip(PART_BYTES // max(1, bytes_each), 1, PART))


def part_path(folder: Path, start: int) -> Path:
    return folder / f"{start:012d}.npz"


def write_part(path: Path, rows: list[Columns]) -> None:
    columns = {name: column.cpu().numpy() for name, column in concatenated(rows).items()}
    write_arrays_durably(path, columns)
