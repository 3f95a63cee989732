"""Two different networks, each with dropout as an approximate posterior:
how sure they are, and how far they agree.

A ResNet-18 and a vision transformer see the same image; each has its own classifier. Dropout that stays on
when they are asked draws from the posterior of each one's weights, and the two stand for different hypotheses
of what a network should look like.

Source: Gal & Ghahramani 2016, arXiv:1506.02142 (dropout as a posterior), and 2015,
    arXiv:1506.02158 (in convolutions: whole channels).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from models.enhanced_vit import EnhancedViT
from models.layers.symmetric import ORDER, unturned
from models.resnet import ResNet


@dataclass(frozen=True)
class Size:
    """Factor on the channels of the ResNet-18, and the size of the vision transformer
    (models/enhanced_vit.py).
    """

    resnet_width: float
    vit: str


SIZES = {
    "small": Size(0.5, "tiny"),  # 256 + 64 features
    "base": Size(1.0, "small"),  # 512 + 128 features
}


class DroppedResNet(ResNet):
    """A ResNet that drops whole channels, or whole fields where it is symmetric,
    of the map after each stage.
    """

    def __init__(self, dropout: float, **options):
        super().__init__(**options)
        self.drop = nn.Dropout2d(dropout)

    def features(self, x: Tensor) -> Tensor:
        features = self.maps(x, lambda number, stage: self.dropped(stage)).mean((2, 3))
        return unturned(features) if self.symmetric else features

    def dropped(self, x: Tensor) -> Tensor:
        return (
            self.drop(x.unflatten(1, (-1, ORDER)).flatten(2, 3)).reshape(x.shape)
            if self.symmetric
            else self.drop(x)
        )


class Heads(nn.Module):
    """Each member's classifier of its own part of the features:
    [B, sum of widths] -> the logit [B, K] of their mean probability.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, dropout: float):
        super().__init__()
        self.widths = tuple(widths)
        self.drop = nn.Dropout(dropout)
        self.members = nn.ModuleList([nn.Linear(width, num_classes) for width in widths])

    def each(self, features: Tensor) -> Tensor:
        """[B, members, K]."""
        return torch.stack(
            [head(self.drop(part)) for head, part in zip(self.members, features.split(self.widths, 1))], 1
        )

    def forward(self, features: Tensor) -> Tensor:
        return mixed(self.each(features))


class BayesianEnsemble(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32 -> logits [B, num_classes],
    each a yes-or-no question of its own.

    The logit is that of the members' mean probability, with dropout in training. To learn from it would train
    the mixture: the members would share the work and disagree for that reason alone (Jeffares et al. 2023,
    arXiv:2301.11323). What is to be learnt from is `member_logit` in the second answer of `inferred`, [B,
    members]: the mean of their losses trains each as if alone. `prior` there, [B], is the same for all
    examples: minus the log of the Gaussian prior of all weights, but for a constant. Divided by the number of
    training examples and added to the loss of each, it makes the loss that of the posterior.

    size             a name in SIZES
    drop_path_rate   stochastic depth of both members, in training only
    dropout          chance that a channel or a number is dropped, in training and in `posterior`
    prior_deviation  of the Gaussian prior of each weight of a matrix or kernel, infinite for no prior;
                     offsets and norms are free
    fields           names of the M columns of metadata, for the transformer; none: images alone
    image_size       pixels on a side that images will have, by which the ResNet chooses its stem;
                     any size can be given
    symmetric        the ResNet's features do not change when the image is turned or mirrored
                     (models/layers/symmetric.py)

    Raises ValueError for what cannot be built, and for images or metadata of another shape.
    """

    def __init__(
        self,
        size: str = "small",
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        dropout: float = 0.1,
        prior_deviation: float = 1.0,
        fields: Sequence[str] = (),
        image_size: int = 41,
        symmetric: bool = False,
    ):
        super().__init__()
        if size not in SIZES:
            raise ValueError(
                f"Bayesian ensemble has no size {size!r}: expected one of {', '.join(SIZES)} (nearest: "
                f"{get_close_matches(str(size), SIZES, 1, 0)[0]})"
            )
        if not 0 <= dropout < 1 or not prior_deviation > 0:
            raise ValueError(
                f"Bayesian ensemble: got dropout {dropout}, prior_deviation {prior_deviation}; expected a "
                "rate in [0, 1), and more than 0"
            )
        shape = SIZES[size]
        shared = dict(in_chans=in_chans, num_classes=num_classes, drop_path_rate=drop_path_rate)
        self.fields = tuple(fields)
        self.prior_deviation = prior_deviation
        self.resnet = DroppedResNet(
            dropout, size="18", width=shape.resnet_width, image_size=image_size, symmetric=symmetric, **shared
        )
        self.vit = EnhancedViT(shape.vit, dropout=dropout, fields=fields, **shared)
        self.resnet.head = self.vit.head = nn.Identity()
        self.head = Heads(
            (self.resnet.feature_dim // (ORDER if symmetric else 1), self.vit.feature_dim),
            num_classes,
            dropout,
        )
        self.feature_dim = sum(self.head.widths)

    def band_places(self, channels: int) -> dict[str, list[list[int]]]:
        """See models/pretrained.py: both members have a first layer."""
        first = [[band] for band in range(channels)]
        return {"resnet.conv1.weight": first, "vit.stem.0.weight": first}

    def fit(self, values: np.ndarray, present: np.ndarray) -> None:
        """Take mean and deviation of each field over the training examples: values [N, M], present [N, M]."""
        self.vit.fit(values, present)

    def features(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """What the classifiers see, side by side: [B, feature_dim]."""
        return torch.cat([self.resnet.features(x), self.vit.features(x, values, present)], 1)

    def inferred(
        self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(features [B, feature_dim], what is made of them: logit [B], member_logit [B, members],
        and in training prior [B]).

        `logit` is that of `forward`; with it nobody needs the head again, which would draw its dropout anew.
        For num_classes 1.
        """
        features = self.features(x, values, present)
        each = self.head.each(features)
        outputs = dict(logit=mixed(each).squeeze(1), member_logit=each.squeeze(2))
        if self.training and self.prior_deviation < math.inf:
            outputs["prior"] = self.prior_energy().expand(len(x))
        return features, outputs

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, num_classes] of features [B, feature_dim]."""
        return self.head(features)

    def forward(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        return self.classify(self.features(x, values, present))

    def prior_energy(self) -> Tensor:
        """Minus the log prior of the weights without its constant, a number in nats:
        sum of w^2 / (2 prior_deviation^2).

        In the loss this is not what AdamW calls weight decay: that shrinks all weights alike, whatever their
        gradients' scale.
        """
        return sum(w.square().sum() for w in self.parameters() if w.ndim > 1) / (2 * self.prior_deviation**2)

    @torch.no_grad()
    def posterior(
        self, x: Tensor, samples: int = 20, values: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Logits [S, members, B] with dropout drawn anew for each sample and example, for num_classes 1.

        All else is as in evaluation. Random numbers come from the global generator of x's device.
        """
        with sampling(self):
            return torch.stack(
                [self.head.each(self.features(x, values, present))[:, :, 0].T for _ in range(samples)]
            )


def mixed(logit: Tensor) -> Tensor:
    """The logit [B, K] of the mean over members of the probabilities whose logits are [B, members, K]."""
    return torch.logsumexp(F.logsigmoid(logit), 1) - torch.logsumexp(F.logsigmoid(-logit), 1)


@contextmanager
def sampling(network: nn.Module) -> Iterator[None]:
    """Within it the dropout of `network` is on and all else as in evaluation;
    afterwards each module is as it was.
    """
    modes = {module: module.training for module in network.modules()}
    for module in modes:
        module.training = isinstance(module, _DropoutNd)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
