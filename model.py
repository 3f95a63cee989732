"""The front door of all networks: MODELS says which there are, `create_model` builds one.

python model.py                                      the table of networks, sizes and parameter counts
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import nn

from models import bayesian_ensemble, convnextv2, enhanced_vit, pinn_lens, resnet
from models.bayesian_ensemble import BayesianEnsemble
from models.convnextv2 import ConvNeXtV2
from models.enhanced_vit import EnhancedViT
from models.film_conditioned import FiLMConditioned
from models.gat_lens import GATLens
from models.pinn_lens import PinnLens
from models.resnet import ResNet
from models.timm_door import build_timm
from physics.lens_parameters import GEOMETRY


@dataclass(frozen=True)
class ModelSpec:
    """One family of networks. Its options are the arguments of `build`, with their defaults."""

    build: Callable[..., nn.Module]
    description: str
    sizes: tuple[str, ...] = ()  # values of its option `size`, where it has one
    pixels: int = 41  # on a side of the images that its default is made for; any from 32 will do
    private: bool = False  # per-example gradients in private training are right, and tested
    metadata: bool = False  # takes metadata itself: its option `fields`, and values beside the images
    physics: bool = False  # a lens model can be fitted by its features (--use_physics)
    # quantities of the lens that it infers by itself (physics/lens_parameters.py)
    infers: tuple[str, ...] = ()

    @property
    def options(self) -> dict:
        """Name -> default; an option without a default has `inspect.Parameter.empty`."""
        return {
            name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()
        }


MODELS = {
    "convnextv2": ModelSpec(
        ConvNeXtV2, "ConvNeXt V2 (Woo et al. 2023)", tuple(convnextv2.SIZES), 224, private=True, physics=True
    ),
    "enhanced_vit": ModelSpec(
        EnhancedViT,
        "vision transformer with attention by place around the lens, and the sky position",
        tuple(enhanced_vit.SIZES),
        private=True,
        metadata=True,
        physics=True,
    ),
    "robust_resnet": ModelSpec(
        ResNet,
        "ResNet with GroupNorm (He et al. 2015), to be trained against attacks (--adversarial)",
        tuple(resnet.SIZES),
        private=True,
        physics=True,
    ),
    "film_conditioned": ModelSpec(
        FiLMConditioned,
        "ResNet whose stages 2 to 4 are conditioned by metadata (Perez et al. 2018)",
        tuple(resnet.SIZES),
        private=True,
        metadata=True,
        physics=True,
    ),
    "gat_lens": ModelSpec(
        GATLens,
        "graph attention on detected objects (Brody et al. 2022); pip install -r requirements-graph.txt",
        metadata=True,
        physics=True,
    ),
    "pinn_lens": ModelSpec(
        PinnLens,
        "infers a lens, traces its rays, judges what is left over",
        tuple(pinn_lens.SIZES),
        physics=True,
        infers=GEOMETRY,
    ),
    "bayesian_ensemble": ModelSpec(
        BayesianEnsemble,
        "ResNet-18 and ViT with dropout in prediction (Gal & Ghahramani 2016)",
        tuple(bayesian_ensemble.SIZES),
        metadata=True,
        physics=True,
    ),
    "timm": ModelSpec(
        build_timm, "any network of timm by its name: timm_name=resnet18", pixels=224, physics=True
    ),
}


def create_model(name: str, **options) -> nn.Module:
    """A freshly initialised network: images [B, in_chans, H, W] -> logits [B, num_classes];
    its two halves are features and classify.

    Raises ValueError for a name, an option or the value of an option that is not known,
    with the nearest that is.
    """
    spec = MODELS[known("model", name, MODELS)]
    for option in options:
        known(f"option of model {name!r}:", option, spec.options)
    for option, default in spec.options.items():
        if default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"model {name!r} needs the option {option!r}: {spec.description}")
    return spec.build(**options)


def known(kind: str, name: str, names) -> str:
    if name not in names:
        nearest = get_close_matches(name, names, 1, 0)[0]
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(names)} (nearest: {nearest})")
    return name


def table() -> str:
    """The networks at one channel and one logit."""
    lines = [
        f"{'model':<18}{'size':<8}{'parameters':>12}{'features':>10}{'pixels':>8}  "
        f"{'private':<9}{'metadata':<10}{'physics':<9}what"
    ]
    for name, spec in MODELS.items():
        for size in spec.sizes or ("",):
            count, features = "", ""
            if spec.options.get("timm_name") is not inspect.Parameter.empty:
                try:
                    with torch.device("meta"):  # shapes without memory
                        network = create_model(name, in_chans=1, **({"size": size} if size else {}))
                    count, features = f"{sum(p.numel() for p in network.parameters()):,}", network.feature_dim
                except ValueError:  # a package that it needs is not installed
                    count = "absent"
            can = "".join(
                f"{'yes' if able else 'no':<{width}}"
                for able, width in ((spec.private, 9), (spec.metadata, 10), (spec.physics, 9))
            )
            lines.append(
                f"{name:<18}{size:<8}{count:>12}{features:>10}{spec.pixels:>8}  {can}{spec.description}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
