"""Features that do not tell where an image comes from: domain-adversarial training.

Source: Ganin et al. 2016, JMLR 17, 59 (arXiv:1505.07818), section 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Reverse(torch.autograd.Function):
    """The identity, whose gradient comes back with the other sign."""

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


class DomainHead(nn.Module):
    """Features [B, F] -> logits [B, domains]. It learns to tell domains apart;
    what is below it learns to prevent that.
    """

    def __init__(self, feature_dim: int, domains: int = 2, width: int = 128):
        super().__init__()
        self.hidden, self.out = nn.Linear(feature_dim, width), nn.Linear(width, domains)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(Reverse.apply(features)))).float()
