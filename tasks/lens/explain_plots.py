"""Why a network calls candidates lenses, a row each: the cutout, what its pixels add to the logit,
and the lens that is inferred.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from utils.plots import COLOURS, stretched

SIDE = 2.0  # inches of a panel
RESIDUAL = 5.0  # noise rms where the colours of the residual end
SOFT = 3.0  # noise rms up to which a cutout's brightness is shown as it is: beyond, by its logarithm
HEADS = ("", "adds to the logit", "without the lens galaxy", "modelled arcs", "residual / error")


class LensModel(NamedTuple):
    """[H, W] each, summed over the bands, in units of the noise;
    the fit's frame may be wider than the cutout.
    """

    without: np.ndarray  # the image without the lens galaxy
    arcs: np.ndarray  # the modelled arcs
    residual: np.ndarray  # without both, in units of the fit's errors
    x: float  # of the lens from the middle, arcsec
    y: float
    radius: float  # Einstein radius, arcsec
    numbers: Mapping[str, float]  # columns of the inferred quantities, `<column>_err`, and plausibility


class Candidate(NamedTuple):
    name: str
    prob: float
    image: np.ndarray  # [C, H, W] in units of each band's noise, blue to red
    attribution: np.ndarray  # [H, W] what a pixel adds to the logit, over all bands
    logit: float
    logit_sky: float  # that of an empty sky
    delta: float  # how far the attributions are from adding up to logit - logit_sky
    pixel_scale: float  # arcsec
    model: LensModel | None = None


def mosaic(candidates: Sequence[Candidate]) -> Figure:
    """A row each; two panels, or five and the inferred numbers where a network infers a lens."""
    wide = any(candidate.model for candidate in candidates)
    columns = 6 if wide else 2
    figure = Figure(figsize=(SIDE * columns + 0.2, (SIDE + 0.4) * len(candidates)), layout="constrained")
    for axes, candidate in zip(figure.subplots(len(candidates), columns, squeeze=False), candidates):
        for ax, head in zip(axes, HEADS):
            ax.set_title(head, fontsize=8, pad=3)
        axes[0].set_title(
            f"{shortened(candidate.name)}   p = {candidate.prob:.4g}", fontsize=8, pad=3, loc="left"
        )
        draw_cutout(axes[0], candidate)
        draw_attribution(axes[1], candidate)
        if candidate.model:
            draw_model(axes[2:5], candidate)
            axes[5].text(
                0, 0.98, "\n".join(lines(candidate.model.numbers)), fontsize=8, va="top", linespacing=1.5
            )
        for ax in axes[2 if not candidate.model else 5 :]:
            ax.set_axis_off()
        for ax in axes:
            ax.set(xticks=[], yticks=[])
    return figure


def shortened(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"


def show(ax: Axes, image: np.ndarray, candidate: Candidate, **options) -> None:
    """`image` [H, W (, 3)] in arcsec from the middle, cut to the cutout's own field."""
    y, x = (0.5 * side * candidate.pixel_scale for side in image.shape[:2])
    ax.imshow(image, origin="lower", interpolation="nearest", extent=(-x, x, -y, y), **options)
    y, x = (0.5 * side * candidate.pixel_scale for side in candidate.image.shape[1:])
    ax.set(xlim=(-x, x), ylim=(-y, y))


def draw_cutout(ax: Axes, candidate: Candidate) -> None:
    image = coloured(candidate.image) if len(candidate.image) >= 3 else stretched(candidate.image.mean(0))
    show(ax, image, candidate, cmap="gray", vmin=0, vmax=1)
    left, low = ax.get_xlim()[0], ax.get_ylim()[0]
    dark = [withStroke(linewidth=3, foreground="black")]  # legible on a bright galaxy too
    ax.plot(
        [0.92 * left, 0.92 * left + 1],
        [0.9 * low] * 2,
        color="white",
        linewidth=2,
        solid_capstyle="butt",
        path_effects=dark,
    )
    ax.text(0.92 * left, 0.86 * low, '1"', color="white", fontsize=8, va="bottom", path_effects=dark)


def coloured(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] in 0 to 1 of bands [C, H, W], blue to red, each in units of its noise:
    a third of the bands for each colour.

    Source: asinh of the mean, which keeps colours, Lupton et al. 2004, PASP 116, 133;
        each colour is white at the same share of its flux.
    """
    image = image - np.median(image, (1, 2), keepdims=True)
    rgb = np.stack([group.mean(0) for group in np.array_split(image, 3)][::-1], -1)
    flux = rgb.clip(min=0).sum((0, 1))
    rgb = rgb * (flux.mean() / flux.clip(min=1e-6)).clip(0.5, 2)
    mean = rgb.mean(-1)
    top, mean = max(np.quantile(mean, 0.995), 5.0) / SOFT, mean.clip(min=1e-3) / SOFT
    rgb = rgb / SOFT * (np.arcsinh(mean) / mean / np.arcsinh(top))[..., None]
    return (rgb / rgb.max(-1, keepdims=True).clip(min=1)).clip(0, 1)


def draw_attribution(ax: Axes, candidate: Candidate) -> None:
    most = max(np.quantile(np.abs(candidate.attribution), 0.998), 1e-12)
    show(ax, candidate.attribution, candidate, cmap="RdBu_r", vmin=-most, vmax=most)
    ax.set_xlabel(
        f"sum {candidate.logit - candidate.logit_sky:+.2f}, missed {candidate.delta:.1g}; to ±{most:.1g}",
        fontsize=7,
        labelpad=2,
    )


def draw_model(axes: Sequence[Axes], candidate: Candidate) -> None:
    """Without the lens galaxy, the modelled arcs, the residual; the circle of the Einstein radius on each.
    Neighbours may be too bright.
    """
    model = candidate.model
    y, x = ((np.arange(side) - (side - 1) / 2) * candidate.pixel_scale for side in model.arcs.shape)
    near = np.hypot(x - model.x, y[:, None] - model.y) < 2 * model.radius
    top = max(np.quantile(model.without[near], 0.99), model.arcs.max(), RESIDUAL) if near.any() else RESIDUAL
    for ax, image in zip(axes, (model.without, model.arcs)):
        show(ax, image, candidate, cmap="gray", vmin=-2, vmax=top)
    show(axes[2], model.residual, candidate, cmap="RdBu_r", vmin=-RESIDUAL, vmax=RESIDUAL)
    axes[0].set_xlabel(f"-2 to {top:.0f} rms, as are the arcs", fontsize=7, labelpad=2)
    axes[2].set_xlabel(f"{-RESIDUAL:.0f} to {RESIDUAL:.0f}", fontsize=7, labelpad=2)
    for ax, colour in zip(axes, (COLOURS[5], COLOURS[5], "0.3")):
        ax.add_patch(
            Circle(
                (model.x, model.y), model.radius, fill=False, color=colour, linewidth=1, linestyle=(0, (4, 2))
            )
        )


def lines(numbers: Mapping[str, float]) -> list[str]:
    """The inferred numbers in words."""

    def value(column: str, unit: str = "") -> str:
        error = max(numbers[column + "_err"], 1e-9)
        digits = max(0, 1 - math.floor(math.log10(error)))  # two of the error
        return f"{numbers[column]:.{digits}f} ± {error:.{digits}f}{unit}"

    written = [
        ("Einstein radius", "Rein", '"'),
        ("ellipticity", "ell_m", ""),
        ("  at angle", "ell_m_PA", "°"),
        ("shear", "sh", ""),
        ("  at angle", "sh_PA", "°"),
        ("lens redshift", "zlens", ""),
        ("source redshift", "zsrc", ""),
    ]
    parts = [name for name in numbers if name.startswith("plausibility_")]
    texts = [f"{name} {value(column, unit)}" for name, column, unit in written if column in numbers]
    texts += [f"plausibility {numbers['plausibility']:.2f}"] if parts else []
    return texts + [
        f"  {name.removeprefix('plausibility_').replace('_', '-')} {numbers[name]:.2f}" for name in parts
    ]
