"""Figures of what evaluate.py and ensemble.py found."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluation import figures_of_merit
from evaluation.figures_of_merit import Curve
from utils.plots import COLOURS, DASHES, axes, style

POINTS = 2000  # of a line; more would only make the file large


def scope_title(scope: str) -> str:
    return "all" if scope == "global" else scope.removeprefix("domain::")


def shown(points: Curve) -> np.ndarray:
    """Indices of about POINTS of the thresholds: dense where there are few false positives,
    even elsewhere.
    """
    last = len(points.fp) - 1
    few = np.searchsorted(points.fp, np.geomspace(1, max(points.fp[-1], 2), POINTS // 2).astype(int))
    return np.unique(
        np.concatenate([[0], few - 1, few, np.linspace(0, last, POINTS // 2).astype(int)]).clip(0, last)
    )


def curve_table(curves: Mapping[str, Curve]) -> pd.DataFrame:
    """What the curves show: scope, threshold, tp, fp, tpr (completeness), fpr, precision (purity)."""
    parts = []
    for scope, points in curves.items():
        threshold, tp, fp = (column[shown(points)] for column in points)
        parts.append(
            pd.DataFrame(
                dict(
                    scope=scope,
                    threshold=threshold,
                    tp=tp,
                    fp=fp,
                    tpr=figures_of_merit.ratio(tp, points.tp[-1]),
                    fpr=figures_of_merit.ratio(fp, points.fp[-1]),
                    precision=figures_of_merit.ratio(tp, tp + fp),
                )
            )
        )
    return pd.concat(parts, ignore_index=True)


def figure_roc(curves: Mapping[str, Curve]) -> Figure:
    """True against false positive rate, the latter on a log axis that begins where one false positive is."""
    figure, ax = axes("False positive rate", "True positive rate (completeness)")
    lowest = 0.5 / max(max(points.fp[-1] for points in curves.values()), 5)
    for i, (scope, points) in enumerate(curves.items()):
        table = curve_table({scope: points})
        area = figures_of_merit.area_under_roc(points.tp, points.fp)
        ax.plot(
            np.append(lowest, table["fpr"].clip(lower=lowest)),
            np.append(0, table["tpr"]),
            drawstyle="steps-post",
            label=f"{scope_title(scope)}: AUC {area:.4f}",
            **style(i),
        )
    chance = np.geomspace(lowest, 1, 200)
    ax.plot(chance, chance, color="0.6", linewidth=1, label="chance")
    for rate in (1e-3, 1e-2):
        if rate > lowest:
            ax.axvline(rate, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02))
    ax.legend(loc="best", frameon=False)
    return figure


def figure_precision_recall(curves: Mapping[str, Curve]) -> Figure:
    """Precision against recall, with the share of lenses (what a random choice gives) as a thin line."""
    figure, ax = axes("Recall (completeness)", "Precision (purity in this sample)")
    for i, (scope, points) in enumerate(curves.items()):
        table = curve_table({scope: points})
        value = figures_of_merit.average_precision(points.tp, points.fp)
        ax.plot(
            np.append(0, table["tpr"]),
            np.append(table["precision"].iloc[0], table["precision"]),
            label=f"{scope_title(scope)}: AP {value:.4f}",
            **style(i),
        )
        ax.axhline(
            points.tp[-1] / (points.tp[-1] + points.fp[-1]), alpha=0.5, **style(i) | dict(linewidth=0.8)
        )
    ax.set(xlim=(0, 1.01), ylim=(0, 1.02))
    ax.legend(loc="lower left", frameon=False, title="thin: a random choice")
    return figure


def figure_reliability(tables: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Share of lenses against mean probability in each bin (figures_of_merit.reliability), 68 % Wilson bars,
    and counts.
    """
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    for i, (scope, table) in enumerate(tables.items()):
        there = table["n"] > 0
        n, x, y = table["n"][there], table["prob"][there], table["lenses"][there]
        middle, half = (y + 0.5 / n) / (1 + 1 / n), np.sqrt(y * (1 - y) / n + 0.25 / n**2) / (1 + 1 / n)
        error = np.nansum(table["n"] * np.abs(table["prob"] - table["lenses"])) / table["n"].sum()
        ax.errorbar(
            x,
            y,
            np.maximum([y - middle + half, middle + half - y], 0),
            marker="o",
            markersize=4,
            capsize=2,
            label=f"{scope_title(scope)}: ECE {error:.4f}",
            **style(i),
        )
        below.stairs(table["n"], np.append(table["low"], 1.0), **style(i))
    for part in (ax, below):
        part.grid(alpha=0.25, linewidth=0.6)
        part.spines[["top", "right"]].set_visible(False)
    ax.set(ylabel="Share of lenses in the bin", xlim=(0, 1), ylim=(-0.02, 1.02))
    below.set(xlabel="Probability of a lens", ylabel="Examples", yscale="log", ylim=(0.7, None))
    ax.legend(loc="upper left", frameon=False)
    return figure


def count_table(groups: Mapping[str, np.ndarray], bins: int = 50) -> pd.DataFrame:
    """Counts in equal bins of probability: columns low, high, and one for each group."""
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        dict(low=edges[:-1], high=edges[1:])
        | {name: np.histogram(prob, edges)[0] for name, prob in groups.items()}
    )


def figure_scores(groups: Mapping[str, np.ndarray], threshold: float | None = None) -> Figure:
    """How many examples have which probability; the threshold as a line.

    groups: probabilities by name, such as "hsc lenses" and "hsc non-lenses":
        a colour each domain, non-lenses dashed.
    """
    figure, ax = axes("Probability of a lens", "Examples per bin")
    table = count_table(groups)
    domains = list(dict.fromkeys(name.rpartition(" ")[0] for name in groups))
    for name in groups:
        domain, _, kind = name.rpartition(" ")
        ax.stairs(
            table[name],
            np.append(table["low"], 1.0),
            label=f"{name} ({len(groups[name]):,})",
            linewidth=1.8,
            color=COLOURS[1 + domains.index(domain) % 6],
            linestyle=(0, (3, 1.2)) if kind.startswith("non") else "-",
        )
    if threshold is not None:
        ax.axvline(threshold, color="0.2", linewidth=1, linestyle=":", label=f"threshold {threshold:.4g}")
    highest = max(1, table.drop(columns=["low", "high"]).to_numpy().max())
    ax.set(xlim=(0, 1), yscale="log", ylim=(0.7, highest**1.35 * 3))  # room for the legend
    ax.legend(loc="upper center", frameon=False, ncols=2, fontsize="small")
    return figure


def figure_confusion(counts: Mapping[str, Mapping[str, float]]) -> Figure:
    """The confusion matrix of every scope: counts, and the share of each true class."""
    figure = Figure(figsize=(3.4 * len(counts) + 0.4, 3.5), layout="constrained")
    for ax, (scope, s) in zip(np.atleast_1d(figure.subplots(1, len(counts))), counts.items()):
        matrix = np.array([[s["tn"], s["fp"]], [s["fn"], s["tp"]]])
        share = figures_of_merit.ratio(matrix, matrix.sum(1, keepdims=True))
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            text = f"{count:,}" + (
                "" if np.isnan(share[row, column]) else f"\n{100 * share[row, column]:.2f} %"
            )
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.55 else "black",
            )
        ax.set(
            title=f"{scope_title(scope)}, t = {s['threshold']:.4g}",
            xlabel="called",
            ylabel="is",
            xticks=[0, 1],
            yticks=[0, 1],
            xticklabels=["non-lens", "lens"],
        )
        ax.set_yticklabels(["non-lens", "lens"], rotation=90, va="center")
    return figure


def figure_purity_completeness(points: Curve, threshold: float) -> Figure:
    """Purity and completeness of the selection prob >= t, against t."""
    figure, ax = axes("Threshold on the probability", "Share")
    table = curve_table({"global": points})
    for i, (name, label) in enumerate(
        (("precision", "purity (in this sample)"), ("tpr", "completeness"), ("fpr", "false positive rate")),
        start=1,
    ):
        ax.plot(table["threshold"], table[name], label=label, **style(i) | dict(linestyle=DASHES[i - 1]))
    ax.axvline(threshold, color="0.2", linewidth=1, linestyle=":", label=f"threshold {threshold:.4g}")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.legend(loc="best", edgecolor="none", framealpha=0.85)
    return figure
