"""A prediction in parts: each is written whole, so that an interrupted prediction goes on where it was."""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from contract import Batch, Columns, Examples
from data.order import read_shares
from data.packing import write_arrays_durably
from utils.mistake import Mistake
from utils.transfer import beside

PART = 8192  # examples that are written at once: what an interruption can cost, and what ranks share


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
) -> None:
    """Write `ask(batch)` of every part of the first `total` examples that is not there yet;
    rank r does the r-th of every `ranks` parts.
    """
    with tqdm(total=total, unit="example", disable=rank > 0 or not sys.stderr.isatty()) as bar:
        for start in range(rank * PART, total, PART * ranks):
            path, stop = folder / f"{start:012d}.npz", min(start + PART, total)
            if not path.exists():
                shares = (np.arange(at, min(at + batch_size, stop)) for at in range(start, stop, batch_size))
                rows = [ask(batch) for batch, _ in beside(read_shares(data, shares, workers, device), device)]
                columns = {name: torch.cat([row[name] for row in rows]).cpu().numpy() for name in rows[0]}
                write_arrays_durably(path, columns)
            bar.update(min(total - bar.n, (stop - start) * ranks))


def gather_parts(folder: Path, total: int) -> dict[str, np.ndarray]:
    """The columns that `predict_parts` wrote, [total, ...] each.
    Raises Mistake for a part that the disk does not give back.
    """
    parts = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as part:
                parts.append(dict(part))
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
            raise Mistake(f"{path} is damaged ({error}): remove it and run the same command again") from error
    columns = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    if any(len(column) != total for column in columns.values()):
        raise Mistake(f"parts are gone from {folder}: run the same command again")
    return columns
