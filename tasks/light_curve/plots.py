"""Figures of light curves: what was measured, what a network makes of it, and how its latent vectors lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from utils.plots import COLOURS, axes

UNITS = ((86400.0, "d"), (3600.0, "h"), (1.0, "s"))  # the largest of which a curve has five is its axis


def reconstructions(
    batch: Mapping[str, Tensor], draws: Tensor, names: Sequence[str], bands: Sequence[str]
) -> Figure:
    """A row a curve, a column a band: data with their asymmetric errors, upper limits as arrows,
    and the network's rate.

    batch: curves as data/light_curves/packed.py gives them; draws [S, B, T, C]: rates of S draws of the
    latent vector, shown by their median and their 68 and 95 % bands.
    """
    figure = Figure(figsize=(3.6 * len(bands) + 0.4, 1.9 * len(names) + 0.4), layout="constrained")
    levels = np.quantile(draws.numpy(), (0.025, 0.16, 0.5, 0.84, 0.975), axis=0)
    for b, row in enumerate(figure.subplots(len(names), len(bands), squeeze=False)):
        here = slice(0, int(batch["length"][b]))
        time = batch["time"][b, here].numpy()
        unit, unit_name = next(
            ((seconds, name) for seconds, name in UNITS if time[-1] >= 5 * seconds), UNITS[-1]
        )
        for c, ax in enumerate(row):
            there = batch["observed"][b, here, c].numpy()
            rate, low, up = (
                batch[name][b, here, c].numpy()[there] for name in ("rate", "error_low", "error_up")
            )
            limit = low >= rate
            ax.fill_between(
                time / unit,
                levels[0, b, here, c],
                levels[4, b, here, c],
                color=COLOURS[1],
                alpha=0.15,
                linewidth=0,
            )
            ax.fill_between(
                time / unit,
                levels[1, b, here, c],
                levels[3, b, here, c],
                color=COLOURS[1],
                alpha=0.3,
                linewidth=0,
            )
            ax.plot(time / unit, levels[2, b, here, c], color=COLOURS[1], linewidth=1.2)
            ax.errorbar(
                time[there][~limit] / unit,
                rate[~limit],
                [low[~limit], up[~limit]],
                fmt=".",
                color="0.15",
                markersize=3,
                linewidth=0.8,
            )
            ax.errorbar(
                time[there][limit] / unit,
                (rate + up)[limit],
                up[limit],
                uplims=True,
                fmt="none",
                color="0.5",
                linewidth=0.8,
            )
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_ylim(bottom=0)
            ax.tick_params(labelsize=7)
            if c == 0:
                ax.set_ylabel(f"{names[b]}\nrate", fontsize=7)
            if b == 0:
                ax.set_title(bands[c], fontsize=8)
            if b == len(names) - 1 or unit_name != UNITS[0][1]:
                ax.set_xlabel(f"time ({unit_name})", fontsize=7)
    return figure


def latent_plane(mean: Tensor, deviance: Tensor, constant: Tensor) -> Figure:
    """Latent vectors [N, L] on their first two principal axes,
    coloured by how much better than a constant the curve is described.

    deviance, constant: [N] of the network and of a constant rate.
    """
    vectors = mean.double().numpy()
    vectors = vectors - vectors.mean(0)
    _, size, directions = np.linalg.svd(vectors, full_matrices=False)
    share = size**2 / max((size**2).sum(), 1e-300)
    place = vectors @ directions[:2].T
    labels = [f"principal axis {i + 1} ({100 * share[i]:.0f} %)" if i < len(share) else "" for i in range(2)]
    figure, ax = axes(labels[0], labels[1])
    gain = 1 - (deviance / constant.clamp(min=1e-30)).clamp(0, 2).numpy()
    points = ax.scatter(
        place[:, 0],
        place[:, 1] if place.shape[1] > 1 else np.zeros(len(place)),
        c=gain,
        s=8,
        cmap="cividis",
        vmin=-0.2,
        vmax=1,
    )
    figure.colorbar(points, ax=ax, label="gain over a constant rate")
    return figure
