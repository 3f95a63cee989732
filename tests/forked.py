"""Ranks of the toy task as forks of one process, which has imported everything: a second a run, where torchrun takes several.

    python tests/forked.py RANKS STOP_AT [flags of toys.py]

STOP_AT > 0: every rank gets a SIGTERM in the step before that one, so that the run stops there with a checkpoint.
"""
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"

import train  # noqa: E402, F401  the path above comes first; imported before the forks
from tests import toys  # noqa: E402
from utils.config import run  # noqa: E402


def main(ranks: int, stop_at: int, argv: list[str]) -> int:
    """The largest exit code of the ranks."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    children = []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        if ranks > 1:
            os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        loss = toys.loss

        def stopping(model, batch, step, loss=loss):
            if step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss(model, batch, step)

        toys.loss = stopping
        sys.argv = ["toys.py", *argv]
        run(toys.main)
        return 0
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
