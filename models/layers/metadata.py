"""What is known of an object besides its pixels: standardised, and as a term of the logit."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def deviation_of(values: np.ndarray) -> float:
    """Population deviation of values [n] in whatever unit; of one value 1, of equal ones 1e-6."""
    if len(values) < 2:
        return 1.0
    deviation = float(values.std(dtype=np.float64))
    return deviation if deviation > 1e-6 * float(np.abs(values).max()) else max(deviation, 1e-6)


class Standardise(nn.Module):
    """(values [B, M] in their own units, present [B, M] bool) -> [B, 2 M] float32:
    the values standardised, then which are there.

    By mean and deviation of the training split, which are buffers; a missing value, whatever stands in its
    place, is at the mean.
    """

    def __init__(self, fields: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(fields))
        self.register_buffer("deviation", torch.ones(fields))

    def fit(self, values: np.ndarray, present: np.ndarray) -> None:
        """Take mean and deviation of each field [M] over the examples [N, M] that have it;
        0 and 1 for a field that none has.
        """
        for field, (column, there) in enumerate(zip(values.T, present.T)):
            if there.any():
                self.mean[field] = float(column[there].mean(dtype=np.float64))
                self.deviation[field] = deviation_of(column[there])

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        standard = torch.where(present, (values - self.mean) / self.deviation, 0.0)
        return torch.cat([standard, present.to(standard.dtype)], 1)


class MetadataTerm(Standardise):
    """(values [B, M] float32, present [B, M] bool) -> [B], added to the logit of an image.

    A perceptron of the values, standardised, and of which are there. It begins at zero:
    the network then is the one without metadata.
    """

    def __init__(self, fields: int, width: int = 32):
        super().__init__(fields)
        self.hidden, self.head = nn.Linear(2 * fields, width), nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(super().forward(values, present)))).squeeze(1)
