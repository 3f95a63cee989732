"""Random rotation of images in physical units: on the sky no angle is special."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotate(nn.Module):
    """image [B, C, H, W] -> (image, angle [B] radians): some turned about their middle by any angle,
    +x towards +y, by cubic interpolation.

    chance   of an example to be turned; the others have angle 0 and stay as they are, to the bit
    Beyond the edge the image is mirrored. Interpolation smooths the noise: its variance falls to about 0.75.
    All random numbers come from the global generator of the image's device.

    Raises ValueError for a chance outside 0 to 1.
    """

    def __init__(self, chance: float = 0.5):
        super().__init__()
        if not 0 <= chance <= 1:
            raise ValueError(f"rotating images: got chance {chance}, expected 0 to 1")
        self.chance = chance

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        B, _, H, W = image.shape
        luck, turn = torch.rand(2, B, device=image.device)
        chosen = luck < self.chance
        angle = torch.where(chosen, 2 * math.pi * turn, 0.0)
        with torch.autocast(image.device.type, enabled=False):
            c = angle.cos()
            s = angle.sin()
            zero = torch.zeros_like(angle)
            # from a place in the turned image to where it was, in halves of the width and of the height
            back = torch.stack(
                [torch.stack([c, s * H / W, zero], 1), torch.stack([-s * W / H, c, zero], 1)], 1
            )
            turned = F.grid_sample(
                image.float(),
                F.affine_grid(back, list(image.shape), align_corners=False),
                "bicubic",
                "reflection",
                align_corners=False,
            )
        return torch.where(chosen[:, None, None, None], turned, image), angle
