"""Our GRU of padded curves beside torch.nn.GRU with packed sequences:
process time of one thread, and how far they differ.

    python benchmarks/gru_speed.py --repeats 15

Curves of 20 to 119 points of 9 numbers, two layers of 64, as the light-curve encoder has them. A GRU's row is
forward and backward of the summed valid outputs; the autoencoder's is a whole step: encoder, decoder, Poisson
loss, divergence, backward, AdamW. Both sides take turns in one process on the same curves and weights;
the fastest of the repeats counts.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402  the path above comes first
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

from losses.vae import kl_gaussian, poisson_nll, sum_observed  # noqa: E402
from models.layers.gru import PaddedGRU, last_state  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

INPUTS, HIDDEN, LAYERS, LATENTS, BANDS = 9, 64, 2, 16, 3
AIMS = {32: 2.0, 256: 5.0}  # at this many curves


@dataclass(frozen=True)
class Config:
    repeats: int = 15  # turns of each side; the fastest counts
    seed: int = 0  # of curves and weights
    bidirectional: bool = False  # both directions
    json: str = ""  # also write the rows to this file


class PackedGRU(nn.GRU):
    """The peer, as users write it."""

    def __init__(self, inputs: int, hidden: int, layers: int, bidirectional: bool):
        super().__init__(inputs, hidden, layers, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        packed = super().forward(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))[0]
        outputs = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]
        return outputs, last_state(outputs, length, self.bidirectional)


class Autoencoder(nn.Module):
    """Curve -> latents -> expected counts of each point, with latents drawn at their mean."""

    def __init__(self, gru: type[nn.GRU], bidirectional: bool):
        super().__init__()
        width = HIDDEN * (1 + bidirectional)
        self.encoder = gru(INPUTS, HIDDEN, LAYERS, bidirectional=bidirectional)
        self.latents = nn.Linear(width, 2 * LATENTS)
        self.decoder = gru(LATENTS + 2, HIDDEN, LAYERS, bidirectional=bidirectional)
        self.rate = nn.Linear(width, BANDS)

    def forward(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.latents(self.encoder(x, length)[1]).chunk(2, 1)
        at = torch.cat([mean[:, None].expand(-1, x.shape[1], -1), x[:, :, :2]], 2)
        return F.softplus(self.rate(self.decoder(at, length)[0])), mean, logvar


def gru_step(model: nn.Module, x: Tensor, length: Tensor, counts: Tensor) -> Tensor:
    model.zero_grad()
    outputs, _ = model(x, length)
    outputs.sum().backward()
    return outputs.detach()


def autoencoder_step(model: nn.Module, x: Tensor, length: Tensor, counts: Tensor) -> Tensor:
    model.zero_grad()
    expected, mean, logvar = model(x, length)
    observed = (torch.arange(x.shape[1]) < length[:, None])[:, :, None].expand_as(counts)
    loss = sum_observed(poisson_nll(counts, expected), observed) + kl_gaussian(mean, logvar)
    loss.mean().backward()
    model.optimizer.step()
    return torch.where(observed, expected, 0).detach()


def difference(step, sides: dict[str, nn.Module], curves: tuple[Tensor, ...]) -> tuple[float, float]:
    """The largest one of outputs, and of gradients as a fraction of each parameter's largest."""
    ours, theirs = (step(model, *curves) for model in sides.values())
    slopes = [
        ((a.grad - b.grad).abs().max() / b.grad.abs().max()).item()
        for a, b in zip(*(m.parameters() for m in sides.values()))
    ]
    return (ours - theirs).abs().max().item(), max(slopes)


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rows, peer = [], f"torch {torch.__version__.partition('+')[0]} nn.GRU, packed"
    for name, step in (("GRU", gru_step), ("autoencoder", autoencoder_step)):
        for batch, aim in AIMS.items():
            length = torch.randint(20, 120, (batch,))
            curves = (
                torch.randn(batch, int(length.max()), INPUTS),
                length,
                torch.poisson(torch.full((batch, int(length.max()), BANDS), 2.0)),
            )
            sides = {"ours": PaddedGRU, "packed": PackedGRU}
            for side, gru in sides.items():
                sides[side] = (
                    Autoencoder(gru, options.bidirectional)
                    if name == "autoencoder"
                    else gru(INPUTS, HIDDEN, LAYERS, bidirectional=options.bidirectional)
                )
                sides[side].load_state_dict(sides["ours"].state_dict())
                # equal weights to the end
                sides[side].optimizer = torch.optim.AdamW(sides[side].parameters(), lr=0.0)
            outputs, gradients = difference(step, sides, curves)
            best = dict.fromkeys(sides, float("inf"))
            for _ in range(options.repeats):
                for side, model in sides.items():
                    start = time.process_time()
                    step(model, *curves)
                    best[side] = min(best[side], time.process_time() - start)
            what = f"{name}, {'forward and backward' if name == 'GRU' else 'training step'}, {batch} curves"
            rows.append(
                Row(
                    what + ", both directions" * options.bidirectional,
                    "ms",
                    best["ours"] * 1e3,
                    peer,
                    best["packed"] * 1e3,
                    aim=aim,
                    equal=f"outputs differ by {outputs:.1e}, gradients by {gradients:.1e} of the largest",
                )
            )
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
