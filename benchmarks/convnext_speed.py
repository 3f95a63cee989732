"""Our ConvNeXt V2 beside timm's, forward without gradients: process time of one thread, and how far the logits differ.

    python benchmarks/convnext_speed.py --sizes atto nano tiny
    python benchmarks/convnext_speed.py --sizes atto --no_compiled --autograd

All sides take turns in one process on the same images and weights, those of the response norm drawn at random, for they
start at zero; the fastest turn of each counts. timm's network compiled by inductor in channels-last needs a C++ compiler;
where there is none its column says so. `--autograd` times forward and backward instead, without the compiled one.
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
from models.timm_door import build_timm  # noqa: E402
from utils import config  # noqa: E402


@dataclass(frozen=True)
class Config:
    sizes: list[str] = field(default_factory=lambda: ["atto", "nano", "tiny"])   # of ConvNeXt V2
    batch: int = 128                 # images at a time
    side: int = 41                   # pixels of an image
    repeats: int = 9                 # turns of each side; the fastest counts
    compiled: bool = True            # also timm's network under torch.compile
    autograd: bool = False           # forward and backward instead of forward
    seed: int = 0                    # of images and weights


def networks(size: str, compiled: bool) -> tuple[dict[str, nn.Module], str]:
    """The sides with the same weights, and why one of them is missing."""
    theirs = build_timm(f"convnextv2_{size}").eval()
    for name, parameter in theirs.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.1)
    sides, missing = {"timm": theirs, "ours": ConvNeXtV2(size).eval()}, ""
    if compiled:
        sides["compiled"] = build_timm(f"convnextv2_{size}").eval().to(memory_format=torch.channels_last)
    for network in sides.values():
        network.load_state_dict(theirs.state_dict())
    if compiled:
        try:
            sides["compiled"].compile()
            with torch.no_grad():
                sides["compiled"](torch.zeros(2, 1, 41, 41))
        except Exception as error:                       # inductor has no one error for a machine without a compiler
            del sides["compiled"]
            missing = f"compiled: not measured ({str(error).splitlines()[0][:60]})"
    return sides, missing


def logits(network: nn.Module, images: Tensor, autograd: bool) -> Tensor:
    if not autograd:
        with torch.no_grad():
            return network(images)
    network.zero_grad()
    result = network(images)
    result.square().mean().backward()
    return result.detach()


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    images = torch.randn(options.batch, 1, options.side, options.side)
    print(f"process time of {'forward and backward' if options.autograd else 'one forward'} on one thread, ms, batch {options.batch}, "
          f"{options.side}x{options.side}; fastest of {options.repeats}")
    print(f"{'':6}{'timm':>9}{'compiled':>10}{'ours':>9}{'x timm':>9}{'x compiled':>12}   logits differ from timm's by")
    for size in options.sizes:
        sides, missing = networks(size, options.compiled and not options.autograd)
        results = {side: logits(network, images, options.autograd) for side, network in sides.items()}
        best = dict.fromkeys(["timm", "compiled", "ours"], float("inf"))
        for _ in range(options.repeats):
            for side, network in sides.items():
                start = time.process_time()
                logits(network, images, options.autograd)
                best[side] = min(best[side], time.process_time() - start)
        with torch.no_grad():
            exact = sides["ours"].double()(images.double())
        ours, error = ((results[side] - against).norm() / exact.norm() for side, against in (("ours", results["timm"]), ("timm", exact)))
        print(f"{size:6}{best['timm'] * 1e3:9.1f}{best['compiled'] * 1e3:10.1f}{best['ours'] * 1e3:9.1f}{best['timm'] / best['ours']:9.2f}"
              f"{best['compiled'] / best['ours']:12.2f}   {ours:.1e} of their norm; timm's from float64 by {error:.1e}  {missing}", flush=True)


if __name__ == "__main__":
    config.run(main)
