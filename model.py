"""The front door of all networks: MODELS says which there are, `create_model` builds one.

    python model.py                                      the table of networks, sizes and parameter counts

A network is a plain nn.Module in models/; what it is asked, and of which data, is its task's affair.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from models import bayesian_ensemble, convnextv2, enhanced_vit, pinn_lens, resnet
from models.bayesian_ensemble import BayesianEnsemble
from models.convnextv2 import ConvNeXtV2
from models.enhanced_vit import EnhancedViT
from models.film_conditioned import FiLMConditioned
from models.gat_lens import GATLens
from models.pinn_lens import PinnLens
from models.recurrent_vae import RecurrentVAE
from models.resnet import ResNet
from models.timm_door import build_timm
from physics.lens_parameters import GEOMETRY


@dataclass(frozen=True)
class ModelSpec:
    """One family of networks. Its options are the arguments of `build`, with their defaults."""

    build: Callable[..., nn.Module]
    description: str
    task: str = "lens"  # whose network it is: a name in tasks/
    sizes: tuple[str, ...] = ()  # values of its option `size`, where it has one
    pixels: int = 41  # on a side of the images that its default is made for; any from 32 will do
    private: bool = False  # per-example gradients in private training are right, and tested
    metadata: bool = False  # takes metadata itself: its option `fields`, and values beside the images
    any_unit: bool = (
        False  # a factor on the pixels of a band changes nothing: it sees them in units of their noise
    )
    physics: bool = False  # a lens model can be fitted by its features (--use_physics)
    # quantities of the lens that it infers by itself (physics/lens_parameters.py)
    infers: tuple[str, ...] = ()
    # options besides `size` with which the table shows it, and flags of a small one for a first try
    shown: Mapping[str, Any] = field(default_factory=lambda: {"in_chans": 1})
    small: tuple[str, ...] = ()

    @property
    def options(self) -> dict:
        """Name -> default; an option without a default has `inspect.Parameter.empty`."""
        return {
            name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()
        }


MODELS = {
    "convnextv2": ModelSpec(
        ConvNeXtV2,
        "ConvNeXt V2 (Woo et al. 2023)",
        sizes=tuple(convnextv2.SIZES),
        pixels=224,
        private=True,
        physics=True,
        small=("--model_size", "atto"),
    ),
    "enhanced_vit": ModelSpec(
        EnhancedViT,
        "vision transformer with attention by place around the lens, and the sky position",
        sizes=tuple(enhanced_vit.SIZES),
        private=True,
        metadata=True,
        physics=True,
        small=("--model_size", "tiny"),
    ),
    "robust_resnet": ModelSpec(
        ResNet,
        "ResNet with GroupNorm (He et al. 2015), to be trained against attacks (--adversarial)",
        sizes=tuple(resnet.SIZES),
        private=True,
        physics=True,
        small=("--model_size", "18", "--model_kwargs", "width=0.125", "symmetric=true"),
    ),
    "film_conditioned": ModelSpec(
        FiLMConditioned,
        "ResNet whose stages 2 to 4 are conditioned by metadata (Perez et al. 2018)",
        sizes=tuple(resnet.SIZES),
        private=True,
        metadata=True,
        physics=True,
        small=("--model_size", "18", "--model_kwargs", "width=0.125"),
    ),
    "gat_lens": ModelSpec(
        GATLens,
        "graph attention on detected objects (Brody et al. 2022); pip install -r requirements-graph.txt",
        metadata=True,
        physics=True,
        small=("--model_kwargs", "layers=2"),
    ),
    "pinn_lens": ModelSpec(
        PinnLens,
        "infers a lens, traces its rays, judges what is left over",
        sizes=tuple(pinn_lens.SIZES),
        any_unit=True,
        physics=True,
        infers=GEOMETRY,
        small=("--model_size", "small"),
    ),
    "bayesian_ensemble": ModelSpec(
        BayesianEnsemble,
        "ResNet-18 and ViT with dropout in prediction (Gal & Ghahramani 2016)",
        sizes=tuple(bayesian_ensemble.SIZES),
        metadata=True,
        physics=True,
        small=("--model_size", "small"),
    ),
    "timm": ModelSpec(
        build_timm,
        "any network of timm by its name: timm_name=resnet18",
        pixels=224,
        physics=True,
        shown={},
        small=("--model_kwargs", "timm_name=resnet10t"),
    ),
    "recurrent_vae": ModelSpec(
        RecurrentVAE,
        "autoencoder of light curves in bands, of any length (Naul et al. 2018)",
        task="light_curve",
        pixels=0,
        shown={"bands": 3},
        small=("--hidden", "8", "--latent", "3", "--layers", "1", "--harmonics", "4"),
    ),
}


def create_model(name: str, **options) -> nn.Module:
    """A freshly initialised network. Of the lens task: images [B, in_chans, H, W] -> logits [B, num_classes],
    in two halves, features and classify (README, "How to add").

    Raises ValueError for a name, an option or the value of an option that is not known,
    with the nearest that is.
    """
    spec = MODELS[refuse_unknown("model", name, MODELS)]
    for option in options:
        refuse_unknown(f"option of model {name!r}:", option, spec.options)
    for option, default in spec.options.items():
        if default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"model {name!r} needs the option {option!r}: {spec.description}")
    return spec.build(**options)


def refuse_unknown(kind: str, name: str, names) -> str:
    if name not in names:
        nearest = get_close_matches(name, names, 1, 0)[0]
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(names)} (nearest: {nearest})")
    return name


def model_table() -> str:
    """The networks, each size of them at its plainest: a lens finder with one channel and one logit."""
    lines = [
        f"{'model':<18}{'size':<8}{'parameters':>12}{'features':>10}{'pixels':>8}  "
        f"{'task':<13}{'private':<9}{'metadata':<10}{'physics':<9}what"
    ]
    for name, spec in MODELS.items():
        for size in spec.sizes or ("",):
            count, features = counted(name, size)
            pixels = spec.pixels or ""
            traits = ((spec.private, 9), (spec.metadata, 10), (spec.physics, 9))
            able = "".join(("yes" if trait else "no").ljust(width) for trait, width in traits)
            lines.append(
                f"{name:<18}{size:<8}{count:>12}{features:>10}{pixels:>8}  "
                f"{spec.task:<13}{able}{spec.description}"
            )
    return "\n".join(lines)


def counted(name: str, size: str) -> tuple[str, str]:
    """(parameters, length of the features): "" where options leave them open, "absent" without a package."""
    spec = MODELS[name]
    options = dict(spec.shown) | ({"size": size} if size else {})
    if any(default is inspect.Parameter.empty for n, default in spec.options.items() if n not in options):
        return "", ""
    try:
        with torch.device("meta"):  # shapes without memory
            network = create_model(name, **options)
    except ValueError:
        return "absent", ""
    return f"{sum(p.numel() for p in network.parameters()):,}", str(network.feature_dim)


def console() -> None:
    """The command starloop-models of an installed Starloop (pyproject.toml)."""
    print(model_table())


if __name__ == "__main__":
    console()
