"""What a checkpoint gives back: its record, its network, its weights;
predict.py, survey.py and whatever serves a network open it here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from contract import DTYPES, InPrecision
from utils import checkpoint
from utils.checkpoint import weights_of
from utils.config import Options, option
from utils.mistake import Mistake


@dataclass(frozen=True)
class Compute(Options):
    """How a network is run, whatever it is asked; survey.py has these options too."""

    batch_size: int = option(128, least=1)  # examples at once on a rank
    num_workers: int = option(0, least=0)  # processes that read data, besides this one
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: what the network was trained in
    compile: bool = False  # torch.compile the network: a minute at the start, for many examples on a GPU


def read_checkpoint(path: str) -> dict[str, Any]:
    try:
        return checkpoint.load(Path(path))
    except FileNotFoundError as error:
        raise Mistake(f"--model_path: there is no file {path!r}") from error
    except checkpoint.Damaged as error:
        raise Mistake(str(error)) from error


def load_weights(model: nn.Module, saved: dict[str, Any], device: torch.device) -> nn.Module:
    """`model` in eval mode with the weights of a checkpoint."""
    model.load_state_dict(weights_of(saved))
    return model.to(device).eval()


def as_asked(model: nn.Module, precision: str, options: Compute) -> InPrecision:
    """`model`, which stays as it is, in this precision, and compiled where that is wished."""
    network = InPrecision(model, DTYPES[precision])
    if options.compile:
        network.compile()
    return network
