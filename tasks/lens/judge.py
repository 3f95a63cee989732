"""How well a network finds lenses, and how it looks."""

import contextlib
import typing
from typing import Any

import torch
from torch import Tensor, nn

from contract import Batch, Columns
from data.cutouts import buckets, examples
from evaluation import calibration, figures_of_merit
from losses.classification import binary_cross_entropy
from physics.lens_parameters import slices
from tasks.lens.config import Config, inferred_quantities
from tasks.lens.losses import network_outputs, withstands_attack
from utils import plots
from utils.mistake import Mistake


def measure(model: nn.Module, batch: Batch, config: Config) -> Columns:
    """Scores of each example: loss, logit and probability of a lens, [B];
    errors of inferred quantities in their sigmas, [B, P]; and what it is.

    With --adversarial also whether the answer withstands an attack, [B].
    """
    outputs = network_outputs(model, batch)
    columns = dict(
        loss=binary_cross_entropy(outputs["logit"], batch["label"]),
        logit=outputs["logit"],
        prob=outputs["logit"].sigmoid(),
    )
    if "targets" in batch:
        columns["error"] = (outputs["mean"] - batch["targets"]) / outputs["variance"].sqrt()
    if config.adversarial != "none":
        columns["robust"] = withstands_attack(config, model, batch)
    return columns | {name: batch[name] for name in ("label", "domain", "index")}


def calibrate(config: Config, columns: Columns) -> dict[str, Any]:
    """What validation says about the probabilities (evaluation/calibration.py) and the error bars:
    a factor for each quantity.
    """
    kept = trusted_rows(config, columns)
    found: dict[str, Any] = dict(probability={})
    for kind in typing.get_args(calibration.Kind):
        # logits that do not rise with the label have none: predict says so when asked
        with contextlib.suppress(Mistake):
            found["probability"][kind] = calibration.fit_calibration(
                kind, kept["logit"].numpy(), kept["label"].numpy()
            )
    if "error" in columns:
        found["quantities"] = {
            name: error_factor(kept["error"][:, place])
            for name, place in slices(inferred_quantities(config)).items()
        }
    return found


def error_factor(errors: Tensor) -> float:
    """Factor on the standard errors after which 68.3 % of these errors, in sigmas, are within one;
    1 where fewer than 20 are known.
    """
    known = errors[errors.isfinite()].abs()
    return known.quantile(0.6827).item() if len(known) >= 20 else 1.0


def trusted_rows(config: Config, columns: Columns) -> Columns:
    """The rows whose label may choose anything: those of --label_domain, if it is given."""
    if not config.label_domain:
        return columns
    here = columns["domain"] == buckets.DOMAINS.index(config.label_domain)
    return {name: column[here] for name, column in columns.items()}


def summarise(columns: Columns) -> dict[str, float]:
    label, prob = columns["label"].numpy(), columns["prob"].numpy()
    return dict(
        loss=columns["loss"].double().mean().item(),
        acc=float(((prob >= 0.5) == (label > 0.5)).mean()),
        auc=figures_of_merit.roc_auc(label, prob),
    ) | ({"robust_acc": columns["robust"].double().mean().item()} if "robust" in columns else {})


def report(columns: Columns) -> dict[str, float | dict[str, float]]:
    """All figures of merit at threshold 0.5, over all examples and for each domain."""
    label, prob, domain = (columns[name].numpy() for name in ("label", "prob", "domain"))
    figures = summarise(columns) | figures_of_merit.all_figures(label, prob, 0.5)
    for number, name in enumerate(buckets.DOMAINS):
        if (domain == number).any():
            here = domain == number
            figures[f"domain::{name}"] = figures_of_merit.all_figures(label[here], prob[here], 0.5)
    return figures


def illustrate(writer, columns: Columns, epoch: int, data: examples.Cutouts) -> None:
    """TensorBoard: precision-recall curve, scores by class and domain,
    the worst false positives and negatives.
    """
    label = columns["label"] > 0.5
    prob = columns["prob"]
    domain = columns["domain"]
    writer.add_pr_curve("val/precision_recall", label, prob, epoch)
    for number, name in enumerate(buckets.DOMAINS):
        for lens, kind in ((True, "lenses"), (False, "nonlenses")):
            if ((domain == number) & (label == lens)).any():
                writer.add_histogram(
                    f"val/score_{name}_{kind}", prob[(domain == number) & (label == lens)], epoch
                )
    for lens, kind in ((False, "false_positives"), (True, "false_negatives")):
        wrong = torch.where(label == lens, (prob - 0.5) * (-1 if lens else 1), -1.0)
        worst = [i for i in wrong.argsort(descending=True)[:16].tolist() if wrong[i] > 0]
        if worst:
            images = data.__getitems__(columns["index"][worst].tolist())["image"].mean(1).numpy()
            titles = [
                f"{name} {prob[i]:.2f}"
                for name, i in zip(data.names(columns["index"][worst].tolist()), worst)
            ]
            writer.add_figure(f"val/{kind}", plots.mosaic(images, titles), epoch)
