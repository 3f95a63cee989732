"""torchrun: two ranks give what one gives, stop together, and resume to the bit."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import ROOT
from utils import checkpoint

TOYS = str(ROOT / "tests" / "toys.py")
ARGV = ["--task", "toy", "--epochs", "3", "--batch_size", "32", "--device", "cpu", "--log_every", "50"]
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS="1")


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def command(ranks: int, folder, *options) -> list[str]:
    launch = (
        [sys.executable]
        if ranks == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(ranks),
            "--master_port",
            free_port(),
        ]
    )
    return [*launch, TOYS, *ARGV, "--save_dir", str(folder), *options]


def run(ranks: int, folder, *options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(ranks, folder, *options),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def state(folder):
    return checkpoint.load(folder / "last.pt")["state"]


@pytest.mark.parametrize(
    "options",
    [["--accumulate", "2"], ["--mode", "customer_data", "--noise_seed", "1"]],
    ids=["single", "customer_data"],
)
def test_two_ranks_equal_one(options, tmp_path):
    """Without dropout: each rank draws its own masks."""
    for ranks in (1, 2):
        run(ranks, tmp_path / str(ranks), "--dropout", "0", *options)
    one, two = state(tmp_path / "1"), state(tmp_path / "2")
    for key in one["model"]:
        torch.testing.assert_close(one["model"][key], two["model"][key], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(one["progress"]["history"], two["progress"]["history"], strict=True):
        assert ours.keys() == theirs.keys() and all(abs(ours[name] - theirs[name]) < 1e-5 for name in ours)


def test_two_ranks_killed_and_resumed_end_on_the_same_bits(tmp_path):
    """Running statistics differ between ranks until they are judged; only rank 0's are saved."""
    options = ["--accumulate", "2", "--precision", "fp16", "--save_every", "2", "--norm", "batch"]
    whole = run(2, tmp_path / "whole", *options)
    assert whole.stderr.count("finished: best epoch") == 1  # only one rank speaks
    process = subprocess.Popen(
        command(2, tmp_path / "broken", *options, "--pause", "0.15"),
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "broken" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state(tmp_path / "broken")["progress"]["step"] < 21
    run(2, tmp_path / "broken", *options)
    ours, theirs = state(tmp_path / "broken"), state(tmp_path / "whole")
    for part in theirs:
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part
    assert (tmp_path / "broken" / "training_log.csv").read_bytes() == (
        tmp_path / "whole" / "training_log.csv"
    ).read_bytes()


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_a_checkpoint(number, code, tmp_path):
    process = subprocess.Popen(
        command(1, tmp_path, "--pause", "0.1"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "train.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command again" in said and "Traceback" not in said
    assert 0 < state(tmp_path)["progress"]["step"] < 21


def test_a_signal_to_one_rank_stops_both(tmp_path):
    process = subprocess.Popen(
        command(2, tmp_path, "--pause", "0.1"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "train.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # torchrun hands it on to its ranks
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "run the same command again" in said
    assert 0 < state(tmp_path)["progress"]["step"] < 21
    run(2, tmp_path)
    assert state(tmp_path)["progress"]["step"] == 21
