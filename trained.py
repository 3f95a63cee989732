"""What a checkpoint gives back: its record, its network, its weights;
predict.py, survey.py and whatever serves a network open it here, a notebook by `load`:

    from trained import load

    network = load("runs/nano_s42/best.pt")
    prob = network.predict(images)  # [N, C, H, W] raw pixels -> [N]
"""

import utils  # noqa: F401  first, before torch: it says how threads wait


from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from contract import DTYPES, InPrecision
from tasks import DOORS, TASKS
from utils import checkpoint, distributed
from utils.checkpoint import weights_of
from utils.config import Options, option
from utils.messages import first_of, say, shortened
from utils.mistake import Mistake


@dataclass(frozen=True)
class Compute(Options):
    """How a network is run, whatever it is asked; survey.py has these options too."""

    batch_size: int = option(128, least=1)  # examples at once on a rank
    num_workers: int = option(0, least=0)  # processes that read data, besides this one
    device: str = "auto"  # auto, cpu, cuda, cuda:N, or mps (Apple)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: what the network was trained in
    compile: bool = False  # torch.compile the network: a minute at the start, for many examples on a GPU


def load(path: str | Path, device: str = "auto", precision: str = "auto", compile: bool = False) -> Any:
    """A trained network for a notebook or a script: tasks/lens/door.py's LensFinder with `predict`, or
    tasks/light_curve/door.py's CurveEmbedder with `embed`.

    path: best.pt (or last.pt) of a run directory.
    device: auto, cpu, cuda, cuda:N or mps. precision: auto (what it was trained in), fp32, bf16 or fp16.
    compile: torch.compile it, for many examples on a GPU.
    Raises: Mistake for a file that is no checkpoint, or one of another version.
    """
    options = Compute(device=device, precision=precision, compile=compile)
    path = str(path)
    saved = read_checkpoint(path)
    trained_as = saved["record"]["options"]
    if trained_as["task"] not in DOORS:
        raise Mistake(
            f"{path}: a network of the task {trained_as['task']!r} is asked by predict.py; load opens those "
            f"of {', '.join(DOORS)}"
        )
    rebuild = TASKS[trained_as["task"]].rebuild
    check_weights(rebuild, saved, path)
    place, warning = distributed.device_for(options.device)
    if warning:
        say(warning)
    model = load_weights(rebuild(saved["record"]), saved, place)
    precision = trained_as["precision"] if options.precision == "auto" else options.precision
    return DOORS[trained_as["task"]](saved, as_asked(model, precision, options), place)


def read_checkpoint(path: str) -> dict[str, Any]:
    """What a file holds. Raises Mistake for one that is no checkpoint, or one of another version."""
    try:
        saved = checkpoint.load(Path(path))
    except FileNotFoundError as error:
        raise Mistake(f"--model_path: there is no file {path!r}") from error
    checkpoint.check_layout(saved, path)
    return saved


def check_weights(rebuild: Callable[[dict[str, Any]], nn.Module], saved: dict[str, Any], path: str) -> None:
    """Raises Mistake where the weights of a checkpoint are not finite, or not those of the network that its
    record describes; before memory for that network is taken.
    """
    with torch.device("meta"):  # shapes without memory
        expected = {name: weight.shape for name, weight in rebuild(saved["record"]).state_dict().items()}
    weights = weights_of(saved)
    differ = [
        f"{name} is {'x'.join(map(str, weights[name].shape)) or 'a number'}, expected "
        f"{'x'.join(map(str, shape)) or 'a number'}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    for what, names in (
        ("lacks", [name for name in expected if name not in weights]),
        ("has besides", [name for name in weights if name not in expected]),
        ("differs in shape:", differ),
    ):
        if names:
            raise Mistake(
                f"--model_path {path}: {what} {len(names)} of the network's {len(expected)} weights "
                f"({shortened(first_of(names))}); it was written by another version of this code"
            )
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise Mistake(
                f"--model_path {path}: {name} holds {int((~weight.isfinite()).sum())} values that are not "
                "finite, so that it answers nothing: give a checkpoint of an earlier epoch or another run"
            )


def load_weights(model: nn.Module, saved: dict[str, Any], device: torch.device) -> nn.Module:
    """`model` in eval mode with the weights of a checkpoint, which `check_weights` has found to fit."""
    model.load_state_dict(weights_of(saved))
    return model.to(device).eval()


def as_asked(model: nn.Module, precision: str, options: Compute) -> InPrecision:
    """`model`, which stays as it is, in this precision, and compiled where that is wished."""
    network = InPrecision(model, DTYPES[precision])
    if options.compile:
        network.compile()
    return network
