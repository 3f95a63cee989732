"""What the lens task asks of a network besides the label: quantities of the system, physics,
one answer for all domains, robustness.
"""

from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contract import Batch, Loss, LossFn
from data.cutouts.buckets import DOMAINS
from losses.adversarial import adversarial, attack
from losses.classification import binary_cross_entropy
from losses.domain import domain_confusion
from losses.lens_constraints import TERMS
from losses.regression import gaussian_nll
from physics.lens_parameters import slices
from tasks.lens.config import fixed_weight, inferred_quantities, term_weights
from utils.mistake import Mistake

METADATA = ("metadata", "metadata_mask")


def network_outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Everything that the network says of the batch (models/lens_network.py)."""
    return model(
        batch["image"],
        batch["present"],
        batch["domain"],
        *[batch[name] for name in METADATA if name in batch],
    )


def label_loss(outputs: dict[str, Tensor], label: Tensor) -> Tensor:
    """Cross-entropy of the logit [B], or the mean of those of members that each answer for themselves."""
    if "member_logit" not in outputs:
        return binary_cross_entropy(outputs["logit"], label)
    return torch.stack(
        [binary_cross_entropy(logit, label) for logit in outputs["member_logit"].unbind(1)]
    ).mean(0)


def label_alone(model: nn.Module, batch: Batch, step: int) -> Loss:
    """What an attack is after."""
    return Loss(label_loss(network_outputs(model, batch), batch["label"]), {})


def withstands_attack(config: Any, model: nn.Module, batch: Batch) -> Tensor:
    """[B] float32: 1 where the answer is right also for the worst image near each,
    searched for as in training (--adversarial).
    """
    worst = attack(
        model, batch, label_alone, 0, config.adversarial, config.adversarial_radius, config.adversarial_steps
    )
    return ((network_outputs(model, worst)["logit"] > 0) == (batch["label"] > 0.5)).float()


def class_weights(config: Any, label: np.ndarray, domain: np.ndarray) -> tuple[float, float]:
    """(weight of non-lenses, of lenses) in the loss of the label, by --class_weight.

    label, domain: [E], of the training examples. `balanced` is examples / (2 examples of the class), whose
    mean over all of them is 1; only those whose label is told (--label_domain) count.
    """
    weight = fixed_weight(config.class_weight)
    if weight is not None:
        return 1.0, weight
    told = domain == DOMAINS.index(config.label_domain) if config.label_domain else np.ones(len(label), bool)
    lenses = int((label[told] > 0.5).sum())
    others = int(told.sum()) - lenses
    if not (lenses and others):
        raise Mistake(
            f"--class_weight balanced: the training split has {lenses} lenses and {others} non-lenses, "
            "expected both; give more objects, or a number"
        )
    return (lenses + others) / (2 * others), (lenses + others) / (2 * lenses)


def build_loss(config: Any, examples: int, weights: tuple[float, float] = (1.0, 1.0)) -> LossFn:
    """The loss of the label and of all terms that are asked for, for training on so many examples;
    each term is logged by its name. weights: of the label's loss of a non-lens, and of a lens.
    """
    of_other, of_lens = weights
    physics = term_weights(config.physics_terms) if config.use_physics else {}
    places = slices(inferred_quantities(config))

    def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
        outputs = network_outputs(model, batch)
        label = batch["label"]
        terms = dict(acc=((outputs["logit"] > 0) == (label > 0.5)).float())
        parts = dict(label=label_loss(outputs, label))
        if "weight" in batch:
            parts["label"] = parts["label"] * batch["weight"]
        if weights != (1.0, 1.0):
            parts["label"] = parts["label"] * torch.where(label > 0.5, of_lens, of_other)
        if (
            "prior" in outputs
        ):  # of all weights: its share of each example makes the posterior of the whole data
            parts["prior"] = outputs["prior"] / examples
        if "targets" in batch:
            terms["regression"] = gaussian_nll(outputs["mean"], outputs["variance"], batch["targets"])
            parts["regression"] = config.regression_weight * terms["regression"]

        again = network_outputs(model, batch) if "shear_consistency" in physics and model.training else None
        for name, weight in physics.items():
            terms[name] = torch.where(label > 0.5, TERMS[name](outputs, again, places), 0.0)
            parts[name] = config.physics_weight * weight * terms[name]

        if config.label_domain:  # whether it is a lens, and what it is like, is told of this domain alone
            told = batch["domain"] == DOMAINS.index(config.label_domain)
            parts = {name: torch.where(told, part, 0.0) for name, part in parts.items()}
        if config.domain_adversarial:
            terms["domain"] = domain_confusion(outputs["domain_logit"], batch["domain"])
            grown = min(1.0, (step + 1) / config.domain_warmup)
            parts["domain"] = config.domain_weight * grown * terms["domain"]
        return Loss(reduce(torch.add, parts.values()), terms, parts)

    if config.adversarial == "none":
        return loss
    return adversarial(
        loss,
        config.adversarial,
        config.adversarial_radius,
        config.adversarial_steps,
        share=config.adversarial_share,
        search=label_alone,
    )
