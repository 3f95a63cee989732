"""Why the network calls an example a lens: what each pixel adds to its logit, and the lens that it infers.
docs/explain.md.

Source: integrated gradients, Sundararajan, Taly & Yan 2017, arXiv:1703.01365, through captum.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from contract import Batch
from data.cutouts.examples import Cutouts
from physics.noise import noise_rms
from tasks.lens import explain_plots
from tasks.lens.explain_plots import Candidate, LensModel
from tasks.lens.losses import network_outputs
from utils import files, plots
from utils.mistake import Mistake

MOST = 100  # examples that one picture can show
STEPS = 50  # of the integral from a sky to the image
SKIES = 4  # whose mean is what an example is compared with


class Attribution(NamedTuple):
    pixels: Tensor  # [C, H, W] what each adds to the logit
    logit: float  # of the example,
    logit_sky: float  # and the mean of that of the skies
    delta: float  # |sum of the pixels - (logit - logit_sky)|: what the steps of the integral miss


def import_captum() -> type:
    """captum's IntegratedGradients. Raises Mistake, one line that says what to install,
    where it is absent.
    """
    if importlib.util.find_spec("captum") is None:
        raise Mistake(
            "captum is not installed, and --explain needs it: pip install -r requirements-explain.txt"
        )
    return importlib.import_module("captum.attr").IntegratedGradients


def empty_skies(image: Tensor, present: Tensor, count: int) -> Tensor:
    """[count, C, H, W] images of nothing, as bright as the edge of `image` [1, C, H, W] and as noisy;
    0 in bands that are not present [1, C].

    Always the same noise, in units of each band's.
    """
    edge = torch.ones(image.shape[2:], dtype=torch.bool, device=image.device)
    edge[1:-1, 1:-1] = False
    level = image[:, :, edge].median(2).values
    noise = torch.randn(count, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
    return torch.where(
        present[..., None, None], level[..., None, None] + noise_rms(image)[..., None, None] * noise, 0.0
    )


def attribution(network: nn.Module, example: Batch, skies: Tensor, batch_size: int) -> Attribution:
    """Integrated gradients of the logit from each of `skies` [S, C, H, W] to the one example,
    in physical pixels; their mean.

    At most `batch_size` images, and no more than STEPS (but at least S), are in the network at once:
    gradients need memory.
    """
    names = [name for name in example if name != "image"]
    S = len(skies)

    def logit(image: Tensor, *others: Tensor) -> Tensor:
        return network_outputs(network, dict(zip(names, others), image=image))["logit"]

    image = example["image"].expand(S, -1, -1, -1)
    others = tuple(example[name].expand(S, *example[name].shape[1:]) for name in names)
    with torch.enable_grad():
        pixels = import_captum()(logit).attribute(
            image,
            skies,
            additional_forward_args=others,
            n_steps=STEPS,
            internal_batch_size=max(S, min(STEPS, batch_size)),
        )
    with torch.no_grad():
        there = logit(example["image"], *(example[name] for name in names)).item()
        sky = logit(skies, *others).double().mean().item()
    pixels = pixels.detach().mean(0)
    return Attribution(pixels, there, sky, abs(pixels.double().sum().item() - (there - sky)))


def explain(
    network: nn.Module,
    examples: Cutouts,
    which: np.ndarray,
    prob: np.ndarray,
    table: pd.DataFrame | None,
    pixel_scale: float,
    batch_size: int,
    out: Path,
    split: str,
) -> str:
    """Write explain_<split>.csv, .png and .pdf of the examples `which`, the first row on top;
    returns the line to print.

    network in eval mode; which [n] int64, prob [n] and table [n], what was predicted of them;
    pixel_scale arcsec.
    """
    device = next(network.parameters()).device
    rows, candidates = [], []
    for place, (number, name) in enumerate(zip(which.tolist(), examples.names(which))):
        example = {key: value.to(device) for key, value in examples.__getitems__([number]).items()}
        found = attribution(
            network, example, empty_skies(example["image"], example["present"], SKIES), batch_size
        )
        with torch.no_grad():
            outputs = network_outputs(network, example)
        numbers = {} if table is None else table.iloc[place].to_dict()
        path = examples.store.index["path"].iloc[examples.files(number)[0]]
        rows.append(
            dict(
                path=path,
                object=name,
                prob=prob[place],
                logit=found.logit,
                logit_sky=found.logit_sky,
                attributed=found.pixels.double().sum().item(),
                delta=found.delta,
            )
        )
        candidates.append(candidate(name, float(prob[place]), example, found, outputs, numbers, pixel_scale))
    written = pd.DataFrame(rows) if table is None else pd.DataFrame(rows).join(table)
    with files.whole(out / f"explain_{split}.csv") as temporary:
        written.to_csv(temporary, index=False)
    plots.save_figure(explain_plots.mosaic(candidates), out, f"explain_{split}")
    files_written = f"{out}/explain_{split}.png, .pdf and .csv"
    return f"{files_written}: why the {len(rows)} of the highest probability are called lenses"


def candidate(
    name: str,
    prob: float,
    example: Batch,
    found: Attribution,
    outputs: dict[str, Tensor],
    numbers: dict[str, float],
    pixel_scale: float,
) -> Candidate:
    """What is drawn of an example: in units of the noise, the bands that are there."""
    there = example["present"][0]
    image = example["image"][0, there].cpu().numpy()
    noise = noise_rms(example["image"])[0, there].clamp(min=1e-12)[:, None, None].cpu().numpy()
    model = None
    if "arcs" in outputs and {"x_l", "y_l", "Rein"} <= numbers.keys():  # of a geometry that was learnt
        seen, light, arcs, error = (
            outputs[key][0, there] for key in ("image", "light", "arcs", "pixel_error")
        )
        rms = outputs["noise"][0, there, None, None]

        def together(bands: Tensor, unit: Tensor) -> np.ndarray:
            """The sum over the bands in this unit, of unit noise again;
            a band in which the fit saw no noise has no part in it.
            """
            return (torch.where(unit > 0, bands / unit, 0.0).sum(0) / len(bands) ** 0.5).cpu().numpy()

        model = LensModel(
            together(seen - light, rms),
            together(arcs, rms),
            together(seen - light - arcs, error),
            numbers["x_l"],
            numbers["y_l"],
            numbers["Rein"],
            numbers,
        )
    return Candidate(
        name,
        prob,
        image / noise,
        found.pixels.sum(0).cpu().numpy(),
        found.logit,
        found.logit_sky,
        found.delta,
        pixel_scale,
        model,
    )
