"""What a network infers of a lens system, with its uncertainty."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physics.lens_parameters import QUANTITIES, slices

# of a standardised component: an error of 1 % of the spread, and of seven times it
LOG_VARIANCE = (-9.0, 4.0)


class QuantityHead(nn.Module):
    """Features [B, F] -> mean and variance [B, P] of the components of the quantities `names`
    (physics/lens_parameters.py).

    A Gaussian for each component, in units of the spread over the training lenses (buffers;
    published values until `fit`).
    """

    def __init__(self, feature_dim: int, names: tuple[str, ...], width: int = 128):
        super().__init__()
        self.names = tuple(names)
        self.register_buffer(
            "centre", torch.tensor([value for name in names for value in QUANTITIES[name].centre])
        )
        self.register_buffer(
            "spread", torch.tensor([value for name in names for value in QUANTITIES[name].spread])
        )
        self.hidden, self.out = nn.Linear(feature_dim, width), nn.Linear(width, 2 * len(self.centre))
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def fit(self, targets: np.ndarray) -> None:
        """Take centre and spread from the components [N, P] of the training examples; NaN: not known.
        One that none has stays as it is.
        """
        for name, place in slices(self.names).items():
            known = targets[:, place][np.isfinite(targets[:, place]).all(1)].astype(np.float64)
            if len(known) > 1:
                # no direction is special: one spread about zero
                round_ = QUANTITIES[name].kind in ("axis", "position")
                centre = np.zeros(known.shape[1]) if round_ else known.mean(0)
                spread = np.sqrt(np.square(known - centre).mean(None if round_ else 0)) * np.ones(
                    known.shape[1]
                )
                self.centre[place] = torch.from_numpy(centre).float()
                self.spread[place] = torch.from_numpy(np.maximum(spread, 1e-6)).float()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.out(F.gelu(self.hidden(features))).float().chunk(2, 1)
        low, high = LOG_VARIANCE
        # 0 stays 0
        log_variance = low + (high - low) * torch.sigmoid(
            4 * log_variance / (high - low) + math.log(-low / high)
        )
        return self.centre + self.spread * mean, self.spread.square() * log_variance.exp()
