"""Our ConvNeXt V2 beside timm's, forward without gradients: process time of one thread,
and how far the logits differ.

    python benchmarks/convnext_speed.py --sizes atto nano tiny
    python benchmarks/convnext_speed.py --sizes atto --no_compiled --autograd

All sides take turns in one process on the same images and weights, those of the response norm drawn at
random, for they start at zero; the fastest turn of each counts. timm's network compiled by inductor in
channels-last needs a C++ compiler. `--autograd` times forward and backward instead, without the compiled one.
Logits may differ by 2e-6 of the largest.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: E402, F401  before torch: it says how threads wait

import torch  # noqa: E402  the path above comes first
from torch import Tensor, nn  # noqa: E402

from models.convnextv2 import ConvNeXtV2  # noqa: E402
from models.timm_door import build_timm, import_timm  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

AIMS = {"timm": 3.0, "compiled": 1.3}  # of the forward
TOLERANCE = 2e-6  # of the largest logit


@dataclass(frozen=True)
class Config:
    sizes: list[str] = field(default_factory=lambda: ["atto", "nano", "tiny"])  # of ConvNeXt V2
    batch: int = 128  # images at a time
    side: int = 41  # pixels of an image
    repeats: int = 9  # turns of each side; the fastest counts
    compiled: bool = True  # also timm's network under torch.compile
    autograd: bool = False  # forward and backward instead of forward
    seed: int = 0  # of images and weights
    json: str = ""  # also write the rows to this file


def networks(size: str, compiled: bool) -> tuple[dict[str, nn.Module], str]:
    """The sides with the same weights, and why the compiled one is missing."""
    theirs = build_timm(f"convnextv2_{size}").body.eval()
    for name, parameter in theirs.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.1)
    sides, missing = {"timm": theirs, "ours": ConvNeXtV2(size).eval()}, ""
    if compiled:
        sides["compiled"] = build_timm(f"convnextv2_{size}").body.eval().to(memory_format=torch.channels_last)
    for network in sides.values():
        network.load_state_dict(theirs.state_dict())
    if compiled:
        try:
            sides["compiled"].compile()
            with torch.no_grad():
                sides["compiled"](torch.zeros(2, 1, 41, 41))
        except Exception as error:  # inductor has no one error for a machine without a compiler
            del sides["compiled"]
            missing = str(error).splitlines()[0][:60]
    return sides, missing


def logits(network: nn.Module, images: Tensor, autograd: bool) -> Tensor:
    if not autograd:
        with torch.no_grad():
            return network(images)
    network.zero_grad()
    result = network(images)
    result.square().mean().backward()
    return result.detach()


def equality(ours: Tensor, theirs: Tensor) -> str:
    apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    held = "within" if apart <= TOLERANCE else "BEYOND"
    return f"logits differ by {apart:.1e} of the largest, {held} {TOLERANCE:.0e}"


def measure_size(size: str, images: Tensor, options: Config) -> list[Row]:
    sides, missing = networks(size, options.compiled and not options.autograd)
    if missing:
        print(
            f"convnext_speed.py: {size} is not compiled ({missing}): install a C++ compiler", file=sys.stderr
        )
    results = {side: logits(network, images, options.autograd) for side, network in sides.items()}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(options.repeats):
        for side, network in sides.items():
            start = time.process_time()
            logits(network, images, options.autograd)
            best[side] = min(best[side], time.process_time() - start)
    with torch.no_grad():
        exact = sides["ours"].double()(images.double())
    ours, error = (
        (results[side] - against).norm() / exact.norm()
        for side, against in (("ours", results["timm"]), ("timm", exact))
    )
    print(
        f"{size}: logits differ from timm's by {ours:.1e} of their norm; timm's from float64 by {error:.1e}",
        flush=True,
    )
    passes = "forward and backward" if options.autograd else "forward"
    what = f"{size} {passes}, batch {options.batch} {options.side}x{options.side}"
    peers = {"timm": f"timm {import_timm().__version__}"}
    if options.compiled and not options.autograd:
        peers["compiled"] = f"{peers['timm']} compiled, channels_last"
    return [
        Row(
            what,
            "ms",
            best["ours"] * 1e3,
            peer,
            best[side] * 1e3 if side in best else None,
            aim=None if options.autograd else AIMS[side],
            equal=equality(results["ours"], results[side]) if side in results else "",
        )
        for side, peer in peers.items()
    ]


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    images = torch.randn(options.batch, 1, options.side, options.side)
    return [row for size in options.sizes for row in measure_size(size, images, options)]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
