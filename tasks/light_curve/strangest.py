"""The strangest curves: which they are, in which band and when the network fails them, and how its score
compares with one made of statistics by hand.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from contract import Batch
from data.light_curves.packed import LightCurves
from physics.cash_statistic import cash_moments
from tasks.light_curve import scores
from tasks.light_curve.scores import Noise

DRAWS = 64  # of the latent vector of each curve in a picture
SCORES = ("anomaly", "anomaly_steady", "anomaly_by_hand", "shortfall", "excess", "constant_excess")


class Failure(NamedTuple):
    """Where a network's description of some curves fails: B curves, T points, C bands."""

    batch: Batch  # the curves
    draws: Tensor  # [S, B, T, C] rates of draws of the latent vector
    deviance: Tensor  # [B, T, C], zero where nothing is observed
    expected: Tensor  # [B, T, C] what it would be if the description were true


@torch.no_grad()
def failure_of(network: nn.Module, examples: LightCurves, chosen: np.ndarray, noise: Noise) -> Failure:
    """The curves `chosen` [B] of the examples, as the network describes them."""
    device = next(network.parameters()).device
    batch = examples.__getitems__(chosen)
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    observed = inputs["observed"]
    rate = scores.describe(network, inputs, observed).rate
    deviance = torch.where(observed, scores.deviance(rate, inputs, noise.kind), 0)
    expected = torch.ones_like(deviance)
    if noise.kind in ("counts", "rates"):
        _, background, exposure = scores.counts_of(inputs, noise.kind)
        expected, _ = cash_moments(torch.where(observed, rate * exposure + background, 0))
    latent = scores.draws(network.feature_dim, device)[:DRAWS]
    draws = [scores.describe(network, inputs, observed, vector[None]).rate for vector in latent]
    expected = torch.where(observed, expected.float(), 0)
    return Failure(batch, torch.stack(draws).cpu(), deviance.cpu(), expected.cpu())


def why_strange(failure: Failure, bands: tuple[str, ...], first_times: np.ndarray) -> pd.DataFrame:
    """Of each curve: deviance_<band> and expected_<band> (means over its points), then worst_band and
    worst_time (s, as in the file), of the point that deviates most, and worst_deviance.

    first_times [B]: s, of each curve's first point.
    """
    observed = failure.batch["observed"]
    number = observed.sum(1).clamp(min=1)
    columns: dict[str, np.ndarray] = {}
    for name, values in (("deviance", failure.deviance), ("expected", failure.expected)):
        mean = (values.sum(1) / number).numpy()
        mean = np.where(observed.any(1).numpy(), mean, np.nan)
        columns |= {f"{name}_{band}": mean[:, c] for c, band in enumerate(bands)}
    B, _, C = observed.shape
    worst = failure.deviance.reshape(B, -1).argmax(1)
    since = failure.batch["time"][torch.arange(B), worst // C].numpy()
    return pd.DataFrame(
        columns
        | dict(
            worst_band=np.asarray(bands, dtype=object)[(worst % C).numpy()],
            worst_time=first_times + since,
            worst_since_first=since,
            worst_deviance=failure.deviance.reshape(B, -1).amax(1).numpy(),
        )
    )


def anomaly_by_hand(features: np.ndarray) -> np.ndarray:
    """[N]: how easily trees set a curve apart by its statistics [N, F], as an isolation forest scores it.

    Source: Liu, Ting & Zhou 2008, ICDM, 413; scikit-learn's, 200 trees.
    """
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=200, random_state=0).fit(features)
    return -forest.score_samples(features)


def compared_scores(frame: pd.DataFrame, labels: np.ndarray | None) -> pd.DataFrame:
    """A row a score: its rank correlation (Spearman) with the signal and with the points,
    and, of labelled curves, the AUC by which it sets each class apart from the others.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    rows = []
    for name in SCORES:
        if name not in frame:
            continue
        values = frame[name].to_numpy(np.float64)
        row: dict[str, object] = dict(score=name)
        for other in ("signal", "points"):
            beside = frame[other].to_numpy(np.float64)
            varies = np.ptp(values) > 0 and np.ptp(beside) > 0
            row[f"rho_{other}"] = float(spearmanr(values, beside)[0]) if varies else np.nan
        if labels is not None:
            there = labels != ""
            for label in sorted(set(labels[there])):
                of_class = labels[there] == label
                if 0 < of_class.sum() < len(of_class):
                    row[f"auc_{label}"] = float(roc_auc_score(of_class, values[there]))
        rows.append(row)
    return pd.DataFrame(rows)
