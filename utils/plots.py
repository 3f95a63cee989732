"""Figures: each function returns a matplotlib Figure and touches no global state,
so it can run in any thread.

Curves are given by scope ("global", "domain::hsc"): one line each, told apart by colour and dash.
Colours: Okabe & Ito, Color Universal Design (jfly.uni-koeln.de/color), safe for colour-blind readers.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils import files

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def axes(xlabel: str, ylabel: str, width: float = 5.6, height: float = 4.4) -> tuple[Figure, Axes]:
    """A figure with one set of axes, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def style(i: int) -> dict:
    return dict(color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], linewidth=1.8)


def mosaic(images: np.ndarray | Sequence[np.ndarray], titles: Sequence[str] = ()) -> Figure:
    """Cutouts [N, H, W] side by side, each with an asinh stretch from its sky up to its 99.5 % quantile."""
    columns = max(1, min(8, math.ceil(math.sqrt(len(images)))))
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows), layout="constrained")
    for i, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        ax.set_axis_off()
        if i < len(images):
            ax.imshow(
                stretched(np.asarray(images[i], np.float64)),
                cmap="gray",
                vmin=0,
                vmax=1,
                origin="lower",
                interpolation="nearest",
            )
            ax.set_title(titles[i] if i < len(titles) else "", fontsize=7, pad=2)
    return figure


def stretched(image: np.ndarray) -> np.ndarray:
    """[H, W] in 0 to 1: asinh of the brightness over the sky in units of its scatter;
    missing pixels are black.
    """
    if not np.isfinite(image).any():
        return np.zeros(image.shape)
    low, sky, high = np.nanquantile(np.where(np.isfinite(image), image, np.nan), [0.16, 0.5, 0.995])
    scatter = max(sky - low, 1e-3 * (high - low), 1e-30)
    bottom, top = np.arcsinh(-2.0), np.arcsinh(max((high - sky) / scatter, 2.0))
    return np.where(
        np.isfinite(image), ((np.arcsinh((image - sky) / scatter) - bottom) / (top - bottom)).clip(0, 1), 0
    )


def figure_training(training_log: pd.DataFrame) -> Figure:
    """Loss, figures of merit and learning rate against the epoch, from training_log.csv."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = (
        ("Loss", ["train_loss", "val_loss"]),
        ("Learning rate", ["lr"]),
        ("Figures of merit", ["train_acc", "val_acc", "val_auc", "val_gain", "val_gain_hidden"]),
    )
    for ax, (ylabel, names) in zip(figure.subplots(1, 3), panels):
        there = [name for name in names if name in training_log]
        for i, name in enumerate(there, start=1):
            ax.plot(
                training_log["epoch"],
                training_log[name],
                marker="." if len(training_log) < 40 else "",
                label=name,
                **style(i) | dict(linestyle=DASHES[i - 1]),
            )
        ax.set(xlabel="Epoch", ylabel=ylabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        if there:
            ax.legend(frameon=False, fontsize="small")
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """<name>.png and <name>.pdf; the same figure gives the same bytes."""
    for kind, stamp in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with files.whole(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata=stamp)
