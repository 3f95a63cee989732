"""What the lens task asks of a network besides the label: quantities of the system, physics, one answer for all domains, robustness."""
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from contract import Batch, Loss, LossFn
from data.buckets import DOMAINS
from losses.adversarial import adversarial, attack
from losses.classification import binary_cross_entropy
from losses.domain import domain_confusion
from losses.physics import TERMS
from losses.regression import gaussian_nll
from model import MODELS
from physics.lens_parameters import GEOMETRY, QUANTITIES, slices
from utils.config import several
from utils.mistake import Mistake

METADATA = ("metadata", "metadata_mask")


@dataclass(frozen=True)
class Losses:
    """Terms of the loss besides the label's."""
    regression: list[str] = several()        # quantities to infer, by their first column in parameters.fits: Rein ell_m sh srcx zlens ...; all
    regression_weight: float = 1.0           # of their likelihood, a mean over the quantities, in nats
    use_physics: bool = False                # fit a lens model to every image, ray by ray; adds its terms for the lenses
    physics_weight: float = 0.1              # of all physics terms together
    physics_terms: list[str] = several("lens_equation", "mass_conservation")    # and shear_consistency, by a second view; or with weights: lens_equation=0.5
    domain_adversarial: bool = False         # features that do not tell the domains apart
    domain_weight: float = 0.1               # of that term
    domain_warmup: int = 1000                # steps over which its weight grows from zero
    label_domain: str = ""                   # learn labels of this domain alone: slsim or hsc; empty: all
    adversarial: Literal["none", "linf", "l2"] = "none"    # learn from the worst image near each image, in this norm
    adversarial_radius: float = 0.1          # how near, in units of the noise of each image; of l2 rather 3
    adversarial_steps: int = 5               # of the search for it
    adversarial_share: float = 0.5           # weight of the worst image; the rest is the image as it is

    def __post_init__(self):
        for name in self.regression:
            if name not in (*QUANTITIES, "all"):
                raise Mistake(f"--regression: got {name!r}, expected all or some of {' '.join(QUANTITIES)}")
        if self.label_domain and self.label_domain not in DOMAINS:
            raise Mistake(f"--label_domain: got {self.label_domain!r}, expected one of {', '.join(DOMAINS)}, or nothing for all")
        if self.domain_warmup < 1:
            raise Mistake(f"--domain_warmup: got {self.domain_warmup}, expected at least 1 step")
        for name in ("regression_weight", "physics_weight", "domain_weight"):
            if not getattr(self, name) >= 0:
                raise Mistake(f"--{name}: got {getattr(self, name):g}, expected at least 0")
        weights_of(self.physics_terms)
        if not self.adversarial_radius >= 0 or self.adversarial_steps < 1 or not 0 <= self.adversarial_share <= 1:
            raise Mistake(f"--adversarial_radius {self.adversarial_radius:g}, --adversarial_steps {self.adversarial_steps}, --adversarial_share "
                          f"{self.adversarial_share:g}: expected at least 0, at least 1, and a share from 0 to 1")


def inferred(config: Any) -> tuple[str, ...]:
    """The quantities that the network infers, in its order: those it infers by itself, then what is asked for."""
    wanted = QUANTITIES if "all" in config.regression else [*config.regression, *(GEOMETRY if config.use_physics else ())]
    own = MODELS[config.model].infers if config.model in MODELS else ()
    return own + tuple(name for name in QUANTITIES if name in wanted and name not in own)


def weights_of(terms: list[str]) -> dict[str, float]:
    """`["a", "b=0.5"]` -> {"a": 1.0, "b": 0.5}."""
    weights = {}
    for term in terms:
        name, equals, weight = term.partition("=")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise Mistake(f"--physics_terms: got {term!r}, expected a name, or name=weight") from error
        if name not in TERMS:
            raise Mistake(f"--physics_terms: got {name!r}, expected some of {', '.join(TERMS)}")
    return weights


def answers_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Everything that the network says of the batch (models/lens_network.py)."""
    return model(batch["image"], batch["present"], batch["domain"], *[batch[name] for name in METADATA if name in batch])


def label_loss(said: dict[str, Tensor], label: Tensor) -> Tensor:
    """Cross-entropy of the logit [B], or the mean of those of members that each answer for themselves."""
    if "member_logit" not in said:
        return binary_cross_entropy(said["logit"], label)
    return torch.stack([binary_cross_entropy(logit, label) for logit in said["member_logit"].unbind(1)]).mean(0)


def label_alone(model: nn.Module, batch: Batch, step: int) -> Loss:
    """What an attack is after."""
    return Loss(label_loss(answers_of(model, batch), batch["label"]), {})


def withstood(config: Any, model: nn.Module, batch: Batch) -> Tensor:
    """[B] float32: 1 where the answer is right also for the worst image near each, searched for as in training (--adversarial)."""
    worst = attack(model, batch, label_alone, 0, config.adversarial, config.adversarial_radius, config.adversarial_steps)
    return ((answers_of(model, worst)["logit"] > 0) == (batch["label"] > 0.5)).float()


def build(config: Any, examples: int) -> LossFn:
    """The loss of the label and of all terms that are asked for, for training on so many examples; each term is logged by its name."""
    physics, places = weights_of(config.physics_terms) if config.use_physics else {}, slices(inferred(config))

    def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
        said, label = answers_of(model, batch), batch["label"]
        value = label_loss(said, label)
        terms = dict(acc=((said["logit"] > 0) == (label > 0.5)).float())
        if "weight" in batch:
            value = value * batch["weight"]
        if "prior" in said:                      # of all weights: its share of each example makes the posterior of the whole data
            value = value + said["prior"] / examples
        if "targets" in batch:
            terms["regression"] = gaussian_nll(said["mean"], said["variance"], batch["targets"])
            value = value + config.regression_weight * terms["regression"]
        again = answers_of(model, batch) if "shear_consistency" in physics and model.training else None
        for name, weight in physics.items():
            terms[name] = torch.where(label > 0.5, TERMS[name](said, again, places), 0.0)
            value = value + config.physics_weight * weight * terms[name]
        if config.label_domain:                  # whether it is a lens, and what it is like, is told of this domain alone
            value = torch.where(batch["domain"] == DOMAINS.index(config.label_domain), value, 0.0)
        if config.domain_adversarial:
            terms["domain"] = domain_confusion(said["domain_logit"], batch["domain"])
            value = value + config.domain_weight * min(1.0, (step + 1) / config.domain_warmup) * terms["domain"]
        return Loss(value, terms)

    if config.adversarial == "none":
        return loss
    return adversarial(loss, config.adversarial, config.adversarial_radius, config.adversarial_steps, share=config.adversarial_share,
                       search=label_alone)
