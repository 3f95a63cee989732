"""A lens finder whole: preprocessing, augmentation, a network,
and everything that is read off the network's features.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.layers.domain_head import DomainHead
from models.layers.lens_fit import LensFit, soft_geometry
from models.layers.quantity_head import QuantityHead
from physics.lens_parameters import rotate, turn
from physics.noise import noise_rms


class LensNetwork(nn.Module):
    """(image [B, C, H, W] physical units, present [B, C] bool, domain [B] int64, values and known [B,
    M] metadata) -> what it says.

    logit            [B] float32 of being a lens; always
    mean, variance   [B, P] of the components of `quantities` (physics/lens_parameters.py),
                     as they are in the image that was given
    posterior        [B, S] logits of samples of the weights, where `samples` is set
    domain_logit     [B, D] of each domain, its gradient reversed on the way back
    light, arcs, flux, error, chi2, ring ...: what models/layers/lens_fit.py makes of the inferred geometry,
    in the frame that the network saw and whatever else the network itself infers (models/pinn_lens.py).

    network         has features(x, [values, known]) -> [B, feature_dim] and classify(features) -> [B, 1]; if
                    it has `inferred`, that gives (features, what else it infers).
                    It gets the metadata if it was built with `fields`.
    augment         sees the preprocessed images, in training only; None for none
    degrade         worsens images before preprocessing, in training only; None for not
    rotate          turns images by any angle before all else, in training only; None for not
    metadata        None, or adds a term to the logit for a network that takes no metadata itself
                    (models/layers/metadata.py)
    quantity_head   None, or infers quantities from the features
    fit             None, or fits the geometry among these to the image
    domains         None, or tells domains apart by the features
    channels_last   the network gets images whose channels lie next to each other in memory,
                    which some devices convolve faster
    """

    def __init__(
        self,
        preprocess: nn.Module,
        augment: nn.Module | None,
        network: nn.Module,
        degrade: nn.Module | None = None,
        metadata: nn.Module | None = None,
        quantity_head: QuantityHead | None = None,
        fit: LensFit | None = None,
        domains: DomainHead | None = None,
        channels_last: bool = False,
        rotate: nn.Module | None = None,
    ):
        super().__init__()
        self.preprocess = preprocess
        self.augment = augment
        self.network = network
        self.degrade = degrade
        self.rotate = rotate
        self.metadata = metadata
        self.quantity_head = quantity_head
        self.fit = fit
        self.domains = domains
        self.channels_last = channels_last
        self.samples = 0  # of the weights, drawn in evaluation; only for a network that has a posterior

    @property
    def heads(self) -> list[QuantityHead]:
        """What infers quantities: the network's own, then `quantity_head`."""
        return [
            head
            for head in (getattr(self.network, "quantity_head", None), self.quantity_head)
            if head is not None
        ]

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names whose components `mean` and `variance` hold."""
        return sum((head.names for head in self.heads), ())

    def fit_quantities(self, targets: np.ndarray) -> None:
        """Take typical values of the quantities from their components [N, P] in training; NaN: not known."""
        at = 0
        for head in self.heads:
            head.fit(targets[:, at : at + len(head.centre)])
            at += len(head.centre)

    def forward(self, image: Tensor, present: Tensor, domain: Tensor, *metadata: Tensor) -> dict[str, Tensor]:
        angle = symmetry = None
        if self.training and self.rotate is not None:
            image, angle = self.rotate(image)
        if self.training and self.degrade is not None:
            image = self.degrade(image, present)
        x = self.preprocess(image, present, domain)
        if self.training and self.augment is not None:
            x, symmetry = self.augment(x, present)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        own = metadata if getattr(self.network, "fields", ()) else ()
        features, outputs = (
            self.network.inferred(x, *own)
            if hasattr(self.network, "inferred")
            else (self.network.features(x, *own), {})
        )
        logit = (
            outputs["logit"] if "logit" in outputs else self.network.classify(features).squeeze(1)
        ).float()
        if self.metadata is not None:
            logit = logit + self.metadata(*metadata).float()
        if self.quantity_head is not None:
            mean, variance = self.quantity_head(features)
            if self.fit is not None:
                outputs = outputs | self.fit(x, noise_rms(x), soft_geometry(mean, self.quantity_head))
            outputs = outputs | {
                name: torch.cat([outputs[name], part], 1) if name in outputs else part
                for name, part in (("mean", mean), ("variance", variance))
            }
        if symmetry is not None and "mean" in outputs:
            outputs = outputs | {
                name: turn(self.quantities, outputs[name], symmetry, back=True, signed=name == "mean")
                for name in ("mean", "variance")
            }
        if angle is not None and "mean" in outputs:
            outputs = outputs | {
                name: rotate(self.quantities, outputs[name], -angle, signed=name == "mean")
                for name in ("mean", "variance")
            }
        if self.domains is not None:
            outputs = outputs | dict(domain_logit=self.domains(features))
        if self.samples and not self.training:
            outputs = outputs | dict(
                posterior=self.network.posterior(x, self.samples, *own).flatten(0, 1).T.float()
            )
        return outputs | dict(logit=logit)
