"""The front door of all networks: MODELS says which there are, `create_model` builds one.

    python model.py                                      the table of networks, sizes and parameter counts
"""
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import nn

from models.convnextv2 import SIZES, ConvNeXtV2
from models.timm_door import build_timm


@dataclass(frozen=True)
class ModelSpec:
    """One family of networks. Its options are the arguments of `build`, with their defaults."""
    build: Callable[..., nn.Module]
    description: str
    sizes: tuple[str, ...] = ()      # values of its option `size`, where it has one
    private: bool = False            # per-example gradients in private training are right, and tested

    @property
    def options(self) -> dict:
        """Name -> default; an option without a default has `inspect.Parameter.empty`."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


MODELS = {
    "convnextv2": ModelSpec(ConvNeXtV2, "ConvNeXt V2 (Woo et al. 2023)", tuple(SIZES), private=True),
    "timm": ModelSpec(build_timm, "any network of timm by its name: timm_name=resnet18"),
}


def create_model(name: str, **options) -> nn.Module:
    """A freshly initialised network: images [B, in_chans, H, W] -> logits [B, num_classes].

    Raises ValueError for a name, an option or the value of an option that is not known, with the nearest that is.
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
    lines = [f"{'model':<12}{'size':<8}{'parameters':>12}  private  what"]
    for name, spec in MODELS.items():
        for size in spec.sizes or ("",):
            count = ""
            if size:
                with torch.device("meta"):                   # shapes without memory
                    count = f"{sum(p.numel() for p in spec.build(size=size, in_chans=1).parameters()):,}"
            lines.append(f"{name:<12}{size:<8}{count:>12}  {'yes' if spec.private else 'no':<7}  {spec.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
