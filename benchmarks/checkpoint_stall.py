"""How long a checkpoint holds up training, beside torch.save, which is not durable.

    python benchmarks/checkpoint_stall.py

Two states of ConvNeXt V2 atto: its weights, their EMA and AdamW's two moments (54 MB),
and the same without the EMA (41 MB).
The stall has two parts. The call: from `collect` to the return of `Writer.save` on the training thread. The
wait: what the training thread then loses to the interpreter's lock while the file is written, from steps of
forward, backward and AdamW that run meanwhile: wall time less its own CPU time, less the same of as many
steps without a save. From both the time in the queue for a core is taken off (Linux /proc/self/task), which
other processes on the machine cause. The file is read back and compared.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import utils  # noqa: E402, F401
import torch  # noqa: E402  the path above comes first

from models.convnextv2 import ConvNeXtV2  # noqa: E402
from table import Row, show  # noqa: E402
from utils import checkpoint, config  # noqa: E402
from utils.ema import Ema  # noqa: E402


@dataclass(frozen=True)
class Config:
    saves: int = 15
    size: str = "atto"  # of ConvNeXt V2
    batch_size: int = 8  # of the steps that run while a file is written
    folder: str = ""  # where to write; empty: a temporary one. Durable is what its disk makes of fsync
    json: str = ""  # also write the rows to this file


def queue() -> float:
    """Milliseconds that this thread has been in the queue for a core, up to now."""
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e6


def waits() -> float:
    """Milliseconds that this thread has neither computed nor been in the queue, up to now."""
    return 1e3 * (time.perf_counter() - time.thread_time()) - queue()


def shown(milliseconds: list[float]) -> str:
    least, most = min(milliseconds), max(milliseconds)
    return f"min {least:.1f}  median {statistics.median(milliseconds):.1f}  max {most:.1f} ms"


def stalls(options: Config, averaged: bool) -> Row:
    """The stall of one state, with the weights' EMA or without."""
    torch.manual_seed(0)
    model, images = ConvNeXtV2(options.size), torch.randn(options.batch_size, 1, 41, 41)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    state = dict(model=model, optimizer=optimizer) | (dict(ema=Ema(model, 0.999).model) if averaged else {})

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    for _ in range(5):
        step()
    calls, lost, base, plain, durable, count = [], [], [], [], [], 0
    with tempfile.TemporaryDirectory(dir=options.folder or None) as temporary:
        last, previous = Path(temporary) / "last.pt", Path(temporary) / "previous.pt"
        with checkpoint.Writer() as writer:
            writer.expect([*model.state_dict().values()] * (1 + averaged) + [*model.parameters()] * 2)
            for _ in range(options.saves):
                step()
                began, queued = time.perf_counter(), queue()
                tree = dict(record={}, state=checkpoint.collect(state))
                writer.save(last, tree, previous)
                calls.append(1e3 * (time.perf_counter() - began) - (queue() - queued))
                if len(calls) == options.saves:
                    kept = checkpoint.digest(tree["state"])  # the steps below change the tree that was given
                before = waits()
                while not writer.begun[last].done():
                    step()
                    count += 1
                lost.append(waits() - before)
            writer.wait()
            same = checkpoint.digest(checkpoint.load(last)["state"]) == kept
        for _ in range(options.saves):
            before = waits()
            for _ in range(count // options.saves + 1):
                step()
            base.append(waits() - before)
        tree = dict(record={}, state=checkpoint.collect(state))
        for _ in range(options.saves):
            began = time.perf_counter()
            torch.save(tree, last)
            plain.append(1e3 * (time.perf_counter() - began))
            began = time.perf_counter()
            checkpoint.save(last, tree, previous)
            durable.append(1e3 * (time.perf_counter() - began))
        megabytes = last.stat().st_size / 1e6
    wait = [max(0.0, each - statistics.median(base)) for each in lost]
    what = f"{megabytes:.0f} MB ({options.size}: weights, {'EMA, ' if averaged else ''}two moments)"
    print(
        f"{what}: the call {shown(calls)}, of the first {calls[0]:.1f}; the wait {shown(wait)} in "
        f"{count / options.saves:.1f} steps, as many without a save {shown(base)}; checkpoint.save on the "
        f"training thread {shown(durable)}; torch.save {shown(plain)}",
        flush=True,
    )
    return Row(
        f"stall of a durable checkpoint, {what}",
        "ms",
        statistics.median([a + b for a, b in zip(calls, wait)]),
        f"torch.save {torch.__version__}, not durable",
        statistics.median(plain),
        limit=15 if not averaged else None,
        equal=f"read back: {'the same bits' if same else 'DIFFERS'}",
    )


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    return [stalls(options, averaged) for averaged in (False, True)]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
