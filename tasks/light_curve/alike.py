"""Which curves are like which: the nearest in the latent space, and maps of all of it in two dimensions."""

import difflib
import importlib.util
from typing import Literal

import numpy as np
import pandas as pd

from utils.mistake import Mistake

MapKind = Literal["pca", "umap"]
NEIGHBOURS = 10  # of each curve that is asked for
UMAP_MOST = 50_000  # curves that UMAP lays out; of more, evenly so many
UMAP_NEIGHBOURS = 15


def refuse_without_umap() -> None:
    """Raises Mistake where umap-learn is not installed; it is not imported, which takes seconds."""
    if importlib.util.find_spec("umap") is None:
        raise Mistake(
            "--maps umap needs umap-learn: pip install -r requirements-umap.txt, or give --maps pca"
        )


def latent_of(frame: pd.DataFrame) -> np.ndarray:
    """[N, L] float64: the means of the posterior."""
    return frame[[name for name in frame if name.startswith("z_")]].to_numpy(np.float64)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [N, 2] of vectors [N, L] on their first two principal axes, whose sign is that of their largest
    component; and the share [2] of the variance along each.
    """
    centred = vectors - vectors.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    place = np.zeros((len(vectors), 2))
    place[:, : axes.shape[1]] = centred @ axes
    share = np.zeros(2)
    share[: axes.shape[1]] = variance[::-1][:2] / max(variance.sum(), 1e-300)
    return place, share


def umap_plane(vectors: np.ndarray) -> np.ndarray:
    """Places [N, 2] of vectors [N, L] by UMAP, the same each time; NaN for those beyond UMAP_MOST.

    Source: McInnes, Healy & Melville 2018, arXiv:1802.03426.
    """
    import umap

    if len(vectors) < 4:
        raise Mistake(f"--maps umap: got {len(vectors)} curves, expected at least 4; give --maps pca")
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), UMAP_MOST)).astype(np.int64))
    place = np.full((len(vectors), 2), np.nan)
    # a start at random: the spectral one needs more curves than dimensions and is no better here
    layout = umap.UMAP(
        n_neighbors=min(UMAP_NEIGHBOURS, len(chosen) - 1), init="random", random_state=0, n_jobs=1
    )
    place[chosen] = layout.fit_transform(vectors[chosen].astype(np.float32))
    return place


def row_of_source(frame: pd.DataFrame, source: str, flag: str) -> int:
    """The first curve of a source. Raises Mistake that names the sources most like it."""
    rows = np.flatnonzero(((frame["source"] == source) | (frame["path"] == source)).to_numpy(dtype=bool))
    if not len(rows):
        like = difflib.get_close_matches(source, frame["source"].astype(str), n=3, cutoff=0)
        raise Mistake(
            f"--{flag} {source!r}: no curve with an embedding is of this source; the names most like it are "
            f"{', '.join(like)}"
        )
    return int(rows[0])


def nearest_curves(frame: pd.DataFrame, source: str, columns: list[str]) -> pd.DataFrame:
    """The curves nearest to a source's (its first) by the distance of their posteriors' means: to, rank,
    source, path, distance, and `columns`. The prior's deviation is 1 in each latent unit.
    """
    row = row_of_source(frame, source, "nearest")
    vectors = latent_of(frame)
    distance = np.sqrt(np.square(vectors - vectors[row]).sum(1))
    distance[row] = np.inf
    near = np.argsort(distance, kind="stable")[: min(NEIGHBOURS, len(frame) - 1)]
    found = frame.iloc[near]
    table = found[["source", "path"]].assign(distance=distance[near].astype(np.float32))
    table.insert(0, "rank", np.arange(1, len(near) + 1))
    table.insert(0, "to", source)
    return table.assign(**{name: found[name] for name in columns}).reset_index(drop=True)
