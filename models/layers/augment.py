"""Random changes of a batch that leave its labels true: the eight symmetries of the square, and noise."""

import torch
from torch import Tensor, nn


def dihedral(x: Tensor, k: int | Tensor) -> Tensor:
    """Symmetry `k` of the square, 0 to 7 (0 leaves all as it is), of square images x [B, C, H, H].

    `k` is one number for all images or [B] int64. Bit 0 of it mirrors columns, bit 1 mirrors rows, bit 2 then
    swaps rows and columns: exact permutations of the pixels.

    Raises ValueError for images that are not square, and for a number `k` outside 0 to 7.
    """
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"the symmetries of the square got images {list(x.shape)}: expected H = W")
    if isinstance(k, int):
        if not 0 <= k < 8:
            raise ValueError(f"symmetry of the square: got {k}, expected 0 to 7")
        x = x.flip([axis for bit, axis in ((1, -1), (2, -2)) if k & bit])
        return x.transpose(-1, -2) if k & 4 else x
    k = k[:, None, None, None]
    x = torch.where((k & 1).bool(), x.flip(-1), x)
    x = torch.where((k & 2).bool(), x.flip(-2), x)
    return torch.where((k & 4).bool(), x.transpose(-1, -2), x)


class Augment(nn.Module):
    """A random symmetry of the square for each example, and white noise for some of them.

    x [B, C, H, H] preprocessed images, present [B, C] bool -> ([B, C, H, H], the number of each example's
    symmetry [B]). Noise has standard deviation `noise`, in the unit of x; an example gets it with chance
    `chance`, in the bands that are present. All random numbers come from the global generator of x's device.
    """

    def __init__(self, noise: float = 0.01, chance: float = 0.5):
        super().__init__()
        self.noise, self.chance = noise, chance

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        B = len(x)
        symmetry = torch.randint(8, (B,), device=x.device)
        x = dihedral(x, symmetry)
        noisy = (torch.rand(B, 1, device=x.device) < self.chance) & present
        return torch.addcmul(
            x, torch.randn_like(x), (self.noise * noisy.to(x.dtype))[:, :, None, None]
        ), symmetry
