"""Figures of light curves: what was measured, what a network makes of it, and how its latent vectors lie."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from physics.count_rates import is_upper_limit
from tasks.light_curve.strangest import Failure
from utils.plots import COLOURS, axes

UNITS = ((86400.0, "d"), (3600.0, "h"), (1.0, "s"))  # the largest of which a curve has five is its axis
RATES = ("rate", "error_low", "error_up")
RINGED = 20  # points of a panel at most: more would hide the data
STRIKING = 9.0  # deviance of a point that three standard deviations of a normal have
ANOMALY_TICKS = (-1000, -300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000)
RING = dict(marker="o", markerfacecolor="none", markeredgecolor="0.1", markersize=7, markeredgewidth=1.0)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NEAR_ZERO = 0.3  # of the highest rate
CLASSES = 12  # that a map tells apart
ANOMALY_NAME = "anomaly (deviations from curves as bright)"


def reconstructions(
    batch: Mapping[str, Tensor],
    draws: Tensor,
    names: Sequence[str],
    bands: Sequence[str],
    deviance: Tensor | None = None,
    titles: Sequence[Sequence[str]] = (),
    unit_of_rate: str = "",
) -> Figure:
    """A row a curve, a column a band: data with their asymmetric errors, upper limits as arrows,
    and the network's rate.

    batch: curves as data/light_curves/packed.py gives them; draws [S, B, T, C]: rates of S draws of the
    latent vector, shown by their median and their 68 and 95 % bands. With `deviance` [B, T, C] the points
    whose is above STRIKING are ringed, the RINGED highest of them. titles: of each row and band, above it.
    unit_of_rate: " (counts/s)".
    """
    high = 2.3 if titles else 1.9
    figure = Figure(figsize=(3.6 * len(bands) + 0.4, high * len(names) + 0.6), layout="constrained")
    levels = np.quantile(draws.numpy(), (0.025, 0.16, 0.5, 0.84, 0.975), axis=0)
    for b, row in enumerate(figure.subplots(len(names), len(bands), squeeze=False)):
        here = slice(0, int(batch["length"][b]))
        time = batch["time"][b, here].numpy()
        unit, unit_name = next(
            ((seconds, name) for seconds, name in UNITS if time[-1] >= 5 * seconds), UNITS[-1]
        )
        for c, ax in enumerate(row):
            there = batch["observed"][b, here, c].numpy()
            fields = {name: batch[name][b, here, c].numpy()[there] for name in RATES}
            draw_network(ax, time / unit, levels[:, b, here, c])
            draw_data(ax, time[there] / unit, **fields)
            if deviance is not None:
                far = deviance[b, here, c].numpy()[there]
                striking = np.argsort(-far, kind="stable")[:RINGED]
                striking = striking[far[striking] > STRIKING]
                ax.plot(
                    time[there][striking] / unit, fields["rate"][striking], linestyle="", zorder=5, **RING
                )
            if titles:
                ax.set_title(titles[b][c], fontsize=7)
            elif b == 0:
                ax.set_title(named_band(bands[c]), fontsize=8)
            if c == 0:
                ax.set_ylabel(f"{names[b]}\nrate{unit_of_rate}", fontsize=7)
            if b == len(names) - 1 or unit_name != UNITS[0][1] or titles:
                ax.set_xlabel(f"time since the first point ({unit_name})", fontsize=7)
    return figure


def named_band(band: str) -> str:
    """A band that is only a number, as where files do not say which it is, is called one."""
    return f"band {band}" if band.isdigit() else band


def draw_network(ax: Axes, time: np.ndarray, levels: np.ndarray) -> None:
    """The median and the 68 and 95 % bands of rates; levels [5, T]."""
    for low, up, alpha in ((0, 4, 0.15), (1, 3, 0.3)):
        ax.fill_between(time, levels[low], levels[up], color=COLOURS[1], alpha=alpha, linewidth=0)
    ax.plot(time, levels[2], color=COLOURS[1], linewidth=1.2)


def draw_data(
    ax: Axes, time: np.ndarray, rate: np.ndarray, error_low: np.ndarray, error_up: np.ndarray
) -> None:
    """Rates with their errors, [T] each; upper limits as arrows."""
    limit = is_upper_limit(torch.from_numpy(rate), torch.from_numpy(error_low)).numpy()
    ax.errorbar(
        time[~limit],
        rate[~limit],
        [error_low[~limit], error_up[~limit]],
        fmt=".",
        color="0.15",
        markersize=3,
        linewidth=0.8,
    )
    ax.errorbar(
        time[limit],
        (rate + error_up)[limit],
        error_up[limit],
        uplims=True,
        fmt="none",
        color="0.5",
        linewidth=0.8,
    )
    ax.spines[["top", "right"]].set_visible(False)
    # zero is shown where rates come near it, with room for the points there
    if len(rate) and 0 <= rate.min() < NEAR_ZERO * rate.max():
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])
    ax.tick_params(labelsize=7)
    ax.yaxis.get_offset_text().set_fontsize(7)


def strangest(
    failure: Failure, table: pd.DataFrame, bands: Sequence[str], rows: slice, unit_of_rate: str
) -> Figure:
    """Some of the strangest curves: each with its rank, score, and how far each band deviates."""
    part = table.iloc[rows]
    titles = [
        [
            f"{named_band(band)}: deviance {row[f'deviance_{band}']:.1f} a point, "
            f"expected {row[f'expected_{band}']:.1f}"
            for band in bands
        ]
        for _, row in part.iterrows()
    ]
    names = [
        f"{row['rank']}. {row['source']}\n{label_of(row)}anomaly {row['anomaly']:.1f}"
        for _, row in part.iterrows()
    ]
    batch = {name: values[rows] for name, values in failure.batch.items()}
    figure = reconstructions(
        batch, failure.draws[:, rows], names, bands, failure.deviance[rows], titles, unit_of_rate
    )
    figure.suptitle(
        f"The strangest curves: data, network (68 and 95 % bands),{' ' if len(bands) > 1 else chr(10)}"
        f"the {RINGED} points of highest deviance above {STRIKING:g} ringed",
        fontsize=9,
    )
    return figure


def label_of(row: pd.Series) -> str:
    return f"{row['label']}, " if row.get("label") else ""


def latent_map(
    place: np.ndarray,
    axis_names: tuple[str, str],
    title: str,
    labels: np.ndarray | None,
    rate: np.ndarray,
    rate_name: str,
    anomaly: np.ndarray,
    named: Mapping[int, str],
) -> Figure:
    """Curves [N] at places [N, 2], once coloured by label (where there are any), by rate, and by anomaly.

    labels [N] str, "" unknown; rate, anomaly [N]; named: row -> the name that stands beside it.
    """
    panels = 2 if labels is None else 3
    figure = Figure(figsize=(4.8 * panels + (1.4 if named else 0), 5.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left = list(figure.subplots(1, panels, squeeze=False, sharex=True, sharey=True)[0])
    size = float(np.clip(6000 / max(len(place), 1), 1.5, 22))
    if labels is not None:
        draw_labels(left[0], place, labels, size)
        left = left[1:]
    for ax, values, name, scale in zip(
        left, (rate, anomaly), (rate_name, ANOMALY_NAME), (rate_scale(rate), anomaly_scale(anomaly))
    ):
        turn = np.argsort(values, kind="stable")  # the highest on top
        points = ax.scatter(*place[turn].T, c=values[turn], s=size, linewidth=0, cmap="cividis", norm=scale)
        points.set_rasterized(True)
        bar = figure.colorbar(points, ax=ax, label=name, location="top", shrink=0.9, extend="both", aspect=30)
        if isinstance(scale, AsinhNorm):
            ticks = [tick for tick in ANOMALY_TICKS if scale.vmin <= tick <= scale.vmax]
            bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
            bar.ax.minorticks_off()
    for ax in figure.axes[:panels]:
        ax.set_xlabel(axis_names[0])
        ax.locator_params(axis="x", nbins=6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        draw_numbers(ax, place, named)
    figure.axes[0].set_ylabel(axis_names[1])
    if named:
        keys = [Line2D([], [], linestyle="", **RING) for _ in named]
        texts = [f"{number}  {name}" for number, name in enumerate(named.values(), start=1)]
        figure.legend(keys, texts, loc="outside right center", fontsize=7, frameon=False, handletextpad=0.3)
    return figure


def draw_labels(ax: Axes, place: np.ndarray, labels: np.ndarray, size: float) -> None:
    """Points by class: the most frequent, each a colour and a marker, the others and the unknown grey."""
    names, counts = np.unique(labels[labels != ""].astype(str), return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:CLASSES]
    rest = ~np.isin(labels, frequent)
    if rest.any():
        other = "no label" if len(frequent) == len(names) else "other or no label"
        points = ax.scatter(
            *place[rest].T, s=size, color="0.75", linewidth=0, label=f"{other} ({rest.sum():,})"
        )
        points.set_rasterized(True)
    for number, name in enumerate(frequent):
        there = labels == name
        colour = COLOURS[(number + 1) % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        points = ax.scatter(
            *place[there].T,
            s=1.3 * size,
            color=colour,
            marker=marker,
            linewidth=0,
            alpha=0.85,
            label=f"{name} ({there.sum():,})",
        )
        points.set_rasterized(True)
    ax.legend(
        frameon=False,
        fontsize=8,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        columnspacing=1.0,
        markerscale=max(1.0, (30 / size) ** 0.5),
        handletextpad=0.2,
    )


def draw_numbers(ax: Axes, place: np.ndarray, named: Mapping[int, str]) -> None:
    """A ring about each named curve, and its number in the key."""
    for number, row in enumerate(named, start=1):
        if np.isfinite(place[row]).all():
            ax.plot(*place[row], **RING)
            ax.annotate(str(number), place[row], (5, 4), textcoords="offset points", fontsize=7)


def rate_scale(rate: np.ndarray) -> Normalize:
    """Between the first and the 99th percentile, logarithmic where all are above zero and span a decade."""
    positive = rate[rate > 0]
    if len(positive) < 0.99 * len(rate) or not len(positive):
        low, high = np.nanquantile(rate, (0.01, 0.99))
        return Normalize(low, high)
    low, high = np.quantile(positive, (0.01, 0.99))
    # the ticks of less than a decade would be too few or too many
    return LogNorm(low, high) if high > 10 * low else Normalize(low, max(high, 1.01 * low))


def anomaly_scale(anomaly: np.ndarray) -> Normalize:
    """Even about zero, logarithmic far out, where the few are."""
    low, high = np.nanquantile(anomaly, (0.01, 0.99))
    return AsinhNorm(linear_width=1.0, vmin=low, vmax=max(high, low + 1e-6))


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
    ax.locator_params(axis="x", nbins=6)
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
