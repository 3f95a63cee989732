"""What a lens model of an image must obey: one value per example, meant for lenses.

`outputs` is what models/lens_network.py says with a fit; `again` is what it says of the same images, turned
in another way by its augmentation; `places` says which components of `mean` belong to which quantity
(physics/lens_parameters.slices).
"""

import torch
from torch import Tensor

from physics.lens_parameters import QUANTITIES

Outputs = dict[str, Tensor]
Places = dict[str, slice]
TIDAL = ("ell_m", "sh")  # quantities of spin 2: what stretches the mass and its surroundings


def lens_equation(outputs: Outputs, again: Outputs | None, places: Places) -> Tensor:
    """ln(1 + reduced chi^2) of the image that the inferred lens makes, a mean over the bands that are there:
    [B].

    Every pixel of it is the source seen along a ray, beta = theta - alpha(theta).
    The logarithm keeps a first wrong guess from ruling.
    """
    there = (outputs["noise"] > 0).float()
    return (outputs["chi2"].log1p() * there).sum(1) / there.sum(1).clamp(min=1)


def mass_conservation(outputs: Outputs, again: Outputs | None, places: Places) -> Tensor:
    """Squared logarithm of the mean convergence inside the Einstein radius that the pixels show,
    which must be 1: [B].

    The pixels' own Einstein radius is the inferred one times the ratio of the radii of arc light in the image
    and in the model; inside a radius R the isothermal lens has mean convergence theta_E / R. Source:
    Schneider, Kochanek & Wambsganss 2006, section 2.
    """
    return (outputs["ring"] / outputs["ring_model"]).log().square()


def shear_consistency(outputs: Outputs, again: Outputs | None, places: Places) -> Tensor:
    """Mean squared difference of what stretches the lens, inferred from two views of one image,
    in units of typical values: [B].

    A shear turns with the sky: seen in a turned or mirrored image and turned back it is the same.
    0 without a second view.
    """
    if again is None:
        return torch.zeros_like(outputs["logit"])
    parts = [
        (
            (outputs["mean"][:, places[name]] - again["mean"][:, places[name]]) / QUANTITIES[name].spread[0]
        ).square()
        for name in TIDAL
    ]
    return torch.cat(parts, 1).mean(1)


TERMS = dict(
    lens_equation=lens_equation, mass_conservation=mass_conservation, shear_consistency=shear_consistency
)
