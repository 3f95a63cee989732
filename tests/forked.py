"""Runs of the toy task, or of others, one after another, their ranks forks of one process that has imported
everything:
torchrun takes seconds a run.

    python tests/forked.py RANKS:STOP_AT:SAVE_DIR [RANKS:STOP_AT:SAVE_DIR ...] -- [flags of train.py] [++ ...]

STOP_AT > 0: every rank gets a SIGTERM in the step before that one, so that the run stops there with a
checkpoint.
"""

import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"

import torch.utils.tensorboard  # noqa: E402, F401  the path above comes first; imported before the forks, as a run does it late

import train  # noqa: E402, F401
from tests import toys  # noqa: E402
from utils import plots  # noqa: E402
from utils.config import run_script  # noqa: E402

STOPPED = 75  # utils/stop.py: stopped with a checkpoint


def run_ranks(ranks: int, stop_at: int, argv: list[str]) -> None:
    """Raises SystemExit unless every rank ends as it should."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    children = []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        if ranks > 1:
            os.environ |= dict(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )
        loss = toys.loss

        def stopping(model, batch, step, loss=loss):
            if step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss(model, batch, step)

        toys.loss, plots.save_figure = stopping, lambda *_: None  # figures are half of the time of such a run
        sys.argv = ["toys.py", *argv]
        run_script(toys.main)
        sys.exit(0)
    codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    if codes != {STOPPED if stop_at else 0}:
        raise SystemExit(f"{ranks} ranks, {argv}: exit codes {codes}")


if __name__ == "__main__":
    words = sys.argv[1:]
    while words:
        end = words.index("++") if "++" in words else len(words)
        group, words = words[:end], words[end + 1 :]
        cut = group.index("--")
        for told in group[:cut]:
            how_many, stop, folder = told.split(":", 2)
            run_ranks(int(how_many), int(stop), [*group[cut + 1 :], "--save_dir", folder])
