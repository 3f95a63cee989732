"""The score sheet: figures of merit of a table of predictions, over all rows and by domain, with intervals;
and its files.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation import bootstrap, figures_of_merit
from utils import files
from utils.files import strict, write_json
from utils.mistake import Mistake

Scores = dict[str, dict[str, float | int | str]]  # scope ("global", "domain::hsc") -> figure -> value


def labelled_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be judged: with a label and a probability."""
    return table[table["label"].notna() & table["prob"].notna()]


def scopes(table: pd.DataFrame, per_domain: bool) -> dict[str, np.ndarray]:
    """Name -> [N] bool: everything, and every domain."""
    domains = sorted(set(table["domain"]) - {""}) if per_domain else []
    return {"global": np.ones(len(table), bool)} | {
        f"domain::{name}": (table["domain"] == name).to_numpy() for name in domains
    }


def score_table(
    table: pd.DataFrame, threshold: float, per_domain: bool, replicates: int, seed: int, objects=None
) -> Scores:
    """All figures at one threshold for every scope, with `<figure>_low` and `<figure>_high` of the 95 %
    interval.

    objects: see bootstrap.intervals. Raises Mistake if no row can be judged.
    """
    judged = labelled_rows(table)
    if not len(judged):
        raise Mistake(
            f"none of {len(table)} rows has both a label and a probability: expected predictions of labelled "
            "files"
        )
    label, prob = judged["label"].to_numpy(), judged["prob"].to_numpy()
    together = (
        None
        if objects is None
        else np.asarray(objects)[(table["label"].notna() & table["prob"].notna()).to_numpy()]
    )
    scores: Scores = {}
    for scope, here in scopes(judged, per_domain).items():
        figures = figures_of_merit.all_figures(label[here], prob[here], threshold)
        limits = bootstrap.intervals(
            label[here], prob[here], threshold, replicates, seed, None if together is None else together[here]
        )
        figures |= {
            f"{name}_{side}": value
            for name, pair in limits.items()
            for side, value in zip(("low", "high"), pair)
        }
        if lacking := {0: "lens", figures["n"]: "non-lens"}.get(figures["lenses"]):
            figures["undefined"] = (
                f"there is no {lacking} among the {figures['n']}, so AUC, TPR and their like are not defined"
            )
        scores[scope] = figures
    return scores


def inverted_lines(scores: Scores) -> list[str]:
    """A remark for each scope whose probabilities look like those of the other class."""
    lines = []
    for scope, figures in scores.items():
        auc = figures["roc_auc"]
        if auc < 0.4 and figures.get("roc_auc_high", auc) < 0.5 and min(figures["lenses"], figures["n"]) >= 5:
            lines.append(
                f"{scope}: AUC {auc:.4f} is far below 0.5: is prob that of a non-lens, or are the labels "
                "turned about? Of the other class it is 1 - prob"
            )
    return lines


def write_scores(scores: Scores, folder: Path, tag: str, about: dict | None = None) -> None:
    """metrics_<tag>.json (undefined values are null) and metrics_<tag>.csv (scope,metric,value;
    undefined values are empty).
    """
    write_json(folder / f"metrics_{tag}.json", scores | ({"about": about} if about else {}))
    rows = [
        (scope, name, "" if value is None else value)
        for scope, figures in strict(scores).items()
        for name, value in figures.items()
    ]
    with files.whole(folder / f"metrics_{tag}.csv") as temporary:
        pd.DataFrame(rows, columns=["scope", "metric", "value"]).to_csv(temporary, index=False)


def score_lines(scores: Scores, title: str = "") -> str:
    """The score sheet as a table in text."""
    rows = [
        (
            title,
            "n",
            "lenses",
            "AUC [95 %]",
            "accuracy",
            "TPR at FPR 1e-2",
            "1e-3",
            "TPR0",
            "TPR10",
            "threshold",
        )
    ]
    for scope, s in scores.items():
        interval = f" [{s['roc_auc_low']:.4f}, {s['roc_auc_high']:.4f}]" if "roc_auc_low" in s else ""
        rows.append(
            (
                scope,
                f"{s['n']:,}",
                f"{s['lenses']:,}",
                f"{s['roc_auc']:.4f}{interval}",
                f"{s['accuracy']:.4f}",
                *(f"{s[name]:.4f}" for name in ("tpr_at_fpr_1e-2", "tpr_at_fpr_1e-3", "tpr0", "tpr10")),
                f"{s['threshold']:.6g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
