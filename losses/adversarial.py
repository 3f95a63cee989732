"""Robust training: a loss made from a loss, on images changed within the noise so that the network errs most.

Source: projected gradient descent, Madry et al. 2018, arXiv:1706.06083, eq. 2.1 and section 2.1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from contract import Batch, Loss, LossFn
from physics.noise import noise_rms

NORMS = ("l2", "linf")


def adversarial(
    loss: LossFn,
    norm: str = "linf",
    radius: float = 1.0,
    steps: int = 5,
    step_size: float | None = None,
    share: float = 0.5,
    search: LossFn | None = None,
) -> LossFn:
    """(1 - share) `loss` + share `loss` of the batch changed by `attack`; at share 1 that of Madry et al.

    search: the loss that the attack makes large, where that is a part of `loss`; None: all of it.

    The network is in the mode, training or not, in which it is. All calls begin with the same random numbers,
    so that the attack, the changed and the given batch go through one augmentation and one dropout. Terms:
    those of `loss` for the batch as it is, the same named "adversarial_..." for the changed one,
    and both values as "clean_loss" and "adversarial_loss".

    Raises ValueError for a norm that is not known and for numbers that cannot be.
    """
    check(norm, radius, steps, step_size)
    if not 0 <= share <= 1:
        raise ValueError(
            f"adversarial training: got share {share}, expected the part of the loss on changed images, 0 to "
            "1"
        )

    settings = dict(norm=norm, radius=radius, steps=steps, step_size=step_size)
    return Mixed(loss, partial(attack, loss=search or loss, **settings), share)


class Mixed(nn.Module):
    """(1 - share) of a loss for the batch as it is, share of it for the worst batch that `search` finds near
    it.
    """

    def __init__(self, loss: LossFn, search: Callable[..., Batch], share: float):
        super().__init__()
        self.loss = loss  # registered, if it has weights of its own
        self.search = search
        self.share = share

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        changed = self.search(model, batch, step=step)
        with same_random_numbers(batch["image"].device):
            hard = self.loss(model, changed, step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.share < 1):
            clean = self.loss(model, batch, step)
        terms = clean.terms | {f"adversarial_{name}": term for name, term in hard.terms.items()}
        terms |= {"clean_loss": clean.value, "adversarial_loss": hard.value}
        if self.share == 1:
            return Loss(hard.value, terms, hard.parts)
        mixed = {name: torch.lerp(clean.parts[name], part, self.share) for name, part in hard.parts.items()}
        return Loss(torch.lerp(clean.value, hard.value, self.share), terms, mixed)


def attack(
    model: nn.Module,
    batch: Batch,
    loss: LossFn,
    step: int = 0,
    norm: str = "linf",
    radius: float = 1.0,
    steps: int = 20,
    step_size: float | None = None,
) -> Batch:
    """The batch with the images, in physical units, within `radius` of its own where `loss` is largest,
    as far as `steps` steps find.

    batch "image" [B, C, H, W], and where it is there "present" [B, C] bool; the rest of the batch is handed
    on. The distance is in units of the noise of each image and channel (physics/noise.py),
    so a band that is not there stays as it is:
        "linf"   no pixel changes by more than `radius` rms
        "l2"     the root of the summed squares over all pixels and channels of an image, each in its rms,
                 is at most `radius`:
                 what a matched filter in white noise would detect at `radius` sigma
    From a random place within the radius, each step goes `step_size` radii (None: 2.5 / steps) along the sign
    ("linf") or the direction ("l2") of the slope of the image's own loss. Derivatives are taken to the images
    alone: no `p.grad` changes, and DDP does not notice. Afterwards the random generators stand where each
        call of `loss` found them.

    Raises ValueError for a norm that is not known and for numbers that cannot be.
    """
    check(norm, radius, steps, step_size)
    image = batch["image"].detach().float()
    rms = noise_rms(image, batch.get("present"))[:, :, None, None]
    shift = random_start(rms.expand_as(image), norm, radius)  # in units of rms
    length = radius * (2.5 / steps if step_size is None else step_size)
    for _ in range(steps):
        with torch.enable_grad(), same_random_numbers(image.device):
            shift.requires_grad_()
            value = loss(model, batch | {"image": image + rms * shift}, step).value
            (slope,) = torch.autograd.grad(value.sum(), shift)
        uphill = slope.sign() if norm == "linf" else slope / over_image(slope)
        shift = project(shift.detach() + length * uphill, norm, radius)
    # added to the image as it was given, through which an attack around this one differentiates
    return batch | {"image": batch["image"] + rms * shift}


def random_start(rms: Tensor, norm: str, radius: float) -> Tensor:
    """A random place within `radius`, zero where there is no noise: [B, C, H, W] in units of rms."""
    if norm == "linf":
        return (2 * torch.rand_like(rms) - 1) * radius * (rms > 0)
    direction = torch.randn_like(rms) * (rms > 0)
    pixels = (rms > 0).flatten(1).sum(1).clamp(min=1)[:, None, None, None]
    # uniform in a ball of so many dimensions
    return (
        direction
        / over_image(direction)
        * radius
        * torch.rand(len(rms), 1, 1, 1, device=rms.device) ** (1 / pixels)
    )


def project(shift: Tensor, norm: str, radius: float) -> Tensor:
    """The nearest place within `radius`."""
    if norm == "linf":
        return shift.clamp(-radius, radius)
    return shift * (radius / over_image(shift)).clamp(max=1)


def over_image(x: Tensor) -> Tensor:
    """The norm of each image [B, 1, 1, 1] over all pixels and channels;
    1e-30 at least, and no underflow of squares above that.
    """
    largest = x.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    return largest * (x / largest).square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1)


def same_random_numbers(device: torch.device):
    """What is drawn inside is drawn again afterwards."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def check(norm: str, radius: float, steps: int, step_size: float | None) -> None:
    if norm not in NORMS:
        raise ValueError(f"attack: got norm {norm!r}, expected one of {', '.join(NORMS)}")
    if not 0 <= radius < float("inf") or steps < 1 or not (step_size is None or step_size > 0):
        raise ValueError(
            f"attack: got radius {radius}, steps {steps}, step_size {step_size}; expected a radius of at "
            "least 0 noise rms, at least 1 step, and a step above 0 radii"
        )
