"""--deterministic elastic: one, two and four ranks end on the same bits,
also when their number changes within an epoch.
"""

import subprocess
import sys

import pytest
import torch

import train
from tests import toys
from tests.conftest import ROOT
from utils import checkpoint
from utils.mistake import Mistake

FORKED = str(ROOT / "tests" / "forked.py")
OPTIONS = [
    "--task",
    "toy",
    "--epochs",
    "2",
    "--batch_size",
    "32",
    "--device",
    "cpu",
    "--log_every",
    "50",
    "--save_every",
    "2",
    "--deterministic",
    "elastic",
    "--lanes",
    "4",
    "--dropout",
    "0.2",
]


def run(*runs: tuple, options=()) -> list[dict]:
    """Of each run of 14 steps, (ranks, step to stop at or 0, folder), its state then."""
    told = [f"{ranks}:{stop_at}:{folder}" for ranks, stop_at, folder in runs]
    done = subprocess.run(
        [sys.executable, FORKED, *told, "--", *OPTIONS, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = [checkpoint.load(folder / "last.pt")["state"] for _, _, folder in runs]
    assert states[-1]["progress"]["step"] == 14
    return states


def bits(folder, state: dict) -> dict[str, str]:
    """All that a run leaves; of its progress the history, as the rest is kept for each rank."""
    return {name: checkpoint.digest(part) for name, part in state.items() if name != "progress"} | dict(
        history=repr(state["progress"]["history"]),
        log=(folder / "training_log.csv").read_text(),
        best=checkpoint.digest(checkpoint.load(folder / "best.pt")["model"]),
    )


@pytest.mark.parametrize(
    "options",
    [["--accumulate", "2", "--norm", "batch"], ["--precision", "fp16"]],
    ids=["batch norm, accumulate", "fp16"],
)
def test_any_number_of_ranks_ends_on_the_same_bits(options, tmp_path):
    folders = [tmp_path / str(ranks) for ranks in (1, 2, 4)]
    one, two, four = map(
        bits, folders, run(*((int(folder.name), 0, folder) for folder in folders), options=options)
    )
    assert one == two == four


def test_the_number_of_ranks_may_change_within_an_epoch(tmp_path):
    """Seven steps an epoch: it stops at 3, 6 and 10."""
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    states = run((1, 0, whole), (2, 3, changing), (4, 6, changing), (1, 10, changing), (2, 0, changing))
    assert bits(changing, states[-1]) == bits(whole, states[0])


def test_lanes_learn_what_one_batch_learns(tmp_path):
    """Without dropout the sum over lanes is the ordinary gradient, but for rounding."""
    (elastic,) = run((2, 0, tmp_path / "elastic"), options=["--dropout", "0"])
    (plain,) = run((1, 0, tmp_path / "plain"), options=["--dropout", "0", "--deterministic", "run"])
    for name, weight in plain["model"].items():
        torch.testing.assert_close(elastic["model"][name], weight, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(elastic["progress"]["history"], plain["progress"]["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_another_number_of_threads_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    argv = [*OPTIONS, "--epochs", "1", "--save_dir", str(tmp_path)]
    train.main(argv)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    try:
        with pytest.raises(Mistake, match="threads 1 -> 2"):
            train.main(argv)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "options,said",
    [
        (["--lanes", "6"], "a power of two that the number of ranks divides"),
        (["--lanes", "32"], "cannot be shared by 32 ranks or lanes"),
        (["--mode", "customer_data"], "expected the single mode"),
    ],
)
def test_what_cannot_be_elastic_is_one_line(options, said, tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(Mistake, match=said):
        train.main([*OPTIONS, *options, "--save_dir", str(tmp_path)])
