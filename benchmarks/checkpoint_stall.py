"""How long a checkpoint holds up training: state of ConvNeXt V2 atto (weights, EMA, AdamW moments), beside torch.save.

    python benchmarks/checkpoint_stall.py

The stall has two parts. The call: from `collect` to the return of `Writer.save` on the training thread. The wait: what the
training thread then loses to the interpreter's lock while the file is written, from steps of forward, backward and AdamW that
run meanwhile: wall time less its own CPU time. From both the time in the queue for a core is taken off (Linux
/proc/self/task), which other processes on the machine cause; the call is also printed with it. The file is read back and compared.
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
from utils import checkpoint, config  # noqa: E402
from utils.ema import Ema  # noqa: E402


@dataclass(frozen=True)
class Config:
    saves: int = 15
    size: str = "atto"           # of ConvNeXt V2
    batch_size: int = 8          # of the steps that run while a file is written
    folder: str = ""             # where to write; empty: a temporary one. Durable is what its disk makes of fsync


def schedstat() -> tuple[float, float]:
    """Milliseconds that this thread has computed, and has been in the queue for a core, up to now."""
    cpu, queue, _ = map(int, Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split())
    return cpu / 1e6, queue / 1e6


def queue() -> float:
    return schedstat()[1]


def waits() -> float:
    """Milliseconds that this thread has spent in neither, up to now."""
    return 1e3 * time.perf_counter() - sum(schedstat())


def shown(milliseconds: list[float]) -> str:
    return f"min {min(milliseconds):.1f}  median {statistics.median(milliseconds):.1f}  max {max(milliseconds):.1f} ms"


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    torch.set_num_threads(1)
    model = ConvNeXtV2(options.size)
    ema, optimizer = Ema(model, 0.999), torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(options.batch_size, 1, 41, 41)
    state = dict(model=model, ema=ema, optimizer=optimizer)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    step()
    with tempfile.TemporaryDirectory(dir=options.folder or None) as temporary:
        last, previous = Path(temporary) / "last.pt", Path(temporary) / "previous.pt"
        calls, unqueued, lost, plain, durable, count = [], [], [], [], [], 0
        with checkpoint.Writer() as writer:
            writer.expect([*model.state_dict().values()] * 2 + [*model.parameters()] * 2)
            for _ in range(5):
                step()
            for _ in range(options.saves):
                began, queued = time.perf_counter(), queue()
                tree = dict(record={}, state=checkpoint.collect(state))
                writer.save(last, tree, previous)
                calls.append(1e3 * (time.perf_counter() - began))
                unqueued.append(calls[-1] - (queue() - queued))
                if len(calls) == options.saves:
                    kept = checkpoint.digest(tree["state"])              # the steps below change the tree that was given
                before = waits()
                while not writer.begun[last].done():
                    step()
                    count += 1
                lost.append(waits() - before)
            writer.wait()
            same = checkpoint.digest(checkpoint.load(last)["state"]) == kept
        base = []
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
    print(f"{megabytes:.0f} MB ({options.size}: weights, EMA, two moments); read back: {'the same bits' if same else 'DIFFERS'}")
    print(f"torch.save, not durable              {shown(plain)}")
    print(f"checkpoint.save, durable, waits      {shown(durable)}")
    print(f"Writer.save, durable: the call       {shown(calls)}")
    print(f"  less its time in the queue         {shown(unqueued)}; the first {unqueued[0]:.1f} ms")
    print(f"  lost to the lock while it writes   {shown(lost)}  (as many steps without a save: {shown(base)})")
    print(f"  stall: the two together            {shown([a + max(0, b - statistics.median(base)) for a, b in zip(unqueued, lost)])}")


if __name__ == "__main__":
    config.run(main)
