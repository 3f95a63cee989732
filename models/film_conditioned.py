"""A ResNet whose maps are scaled and shifted, channel by channel,
by what is known of the object besides its pixels.

Source: Perez et al. 2018, arXiv:1709.07871, eq. 1 and 2, here on the map of a whole stage.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.metadata import Standardise
from models.layers.symmetric import ORDER, each_channel
from models.resnet import ResNet


class HideFields(nn.Module):
    """In training, takes metadata away: each field of an example with chance `rate`,
    and all of its fields with chance `rate`.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, present: Tensor) -> Tensor:
        """present [B, M] bool -> [B, M] bool."""
        if not self.training or self.rate == 0:
            return present
        B, M = present.shape
        kept = torch.rand(B, M + 1, device=present.device) >= self.rate
        return present & kept[:, :M] & kept[:, M:]

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class FiLMConditioned(ResNet):
    """Images [B, in_chans, H, W], and metadata values [B, M] with their mask present [B, M] -> logits [B,
    num_classes].

    fields             names of the M columns of metadata; none: a ResNet
    film_stages        stages, of 1 to 4, whose maps are scaled and shifted
    metadata_dropout   training: chance that a field is hidden, and again that all are (HideFields)
    hidden             width of the perceptron of the standardised values and their mask
    The other arguments are those of ResNet, and so are the names of its weights.

    A map x becomes (1 + gamma) x + beta. Both begin at zero, and are zero, whatever was learnt,
    for an example of which nothing is
    known: to the bit its logits then are those of the ResNet.
        Without `values` nothing is known of any example.

    Raises ValueError as ResNet does, for stages that are not there, and for metadata of another shape than
    [B, M].
    """

    fresh = ("standardise", "film_hidden", "film")  # see models/pretrained.py

    def __init__(
        self,
        size: str = "34",
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        width: float = 1.0,
        stem: str = "auto",
        image_size: int = 41,
        symmetric: bool = False,
        fields: Sequence[str] = (),
        film_stages: Sequence[int] = (2, 3, 4),
        metadata_dropout: float = 0.2,
        hidden: int = 64,
    ):
        super().__init__(size, in_chans, num_classes, drop_path_rate, width, stem, image_size, symmetric)
        if not set(film_stages) <= {1, 2, 3, 4} or not 0 <= metadata_dropout < 1 or hidden < 1:
            raise ValueError(
                f"FiLM: got film_stages {film_stages}, metadata_dropout {metadata_dropout}, hidden {hidden}; "
                "expected stages from 1 to 4, a rate in [0, 1), and a width of at least 1"
            )
        self.fields = tuple(fields)
        if self.fields:
            self.standardise = Standardise(len(self.fields))
            self.hide = HideFields(metadata_dropout)
            self.film_hidden = nn.Linear(2 * len(self.fields), hidden)
            # channels that metadata, which do not turn with the image, change alike
            alike = ORDER if symmetric else 1
            self.film = nn.ModuleDict(
                {str(stage): nn.Linear(hidden, 2 * self.widths[stage - 1] // alike) for stage in film_stages}
            )
            for layer in self.film.values():
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def fit(self, values: np.ndarray, present: np.ndarray) -> None:
        """Take mean and deviation of each field over the training examples: values [N, M], present [N, M]."""
        if self.fields:
            self.standardise.fit(values, present)

    def features(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """What the classifier sees: [B, feature_dim]."""
        if values is None or not self.fields:
            return super().features(x)
        if values.shape != (len(x), len(self.fields)) or present.shape != values.shape:
            raise ValueError(
                f"FiLM got metadata {list(values.shape)} and their mask {list(present.shape)} of {len(x)} "
                f"images: expected both [B, {len(self.fields)}], a column for each of "
                f"{', '.join(self.fields)}"
            )
        present = self.hide(present)
        known = F.gelu(self.film_hidden(self.standardise(values, present)))
        something = present.any(1, keepdim=True)

        def condition(stage: int, x: Tensor) -> Tensor:
            if str(stage) not in self.film:
                return x
            numbers = self.film[str(stage)](known) * something
            gamma, beta = (each_channel(numbers) if self.symmetric else numbers)[:, :, None, None].chunk(2, 1)
            return (1 + gamma) * x + beta

        return self.maps(x, condition).mean((2, 3))

    def forward(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        return self.classify(self.features(x, values, present))
