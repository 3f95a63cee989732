"""CUDA graphs where they pay: which of two ways a compiled network goes,
with stand-ins for what only a GPU can do.
"""

import re
import time
from itertools import count

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import train
from tests import toys
from utils import checkpoint, cuda_graphs
from utils.seeding import seed_step


def plain(graph, _inputs):
    """A backend of torch.compile that runs what it is given, a little slowly."""

    def run(*args):
        time.sleep(0.002)
        return graph.forward(*args)

    return run


def fast(graph, _inputs):
    return graph.forward


def wrong(graph, _inputs):
    return lambda *args: [1.01 * output for output in graph.forward(*args)]


def holding_copies(graph, _inputs):
    """A graph that was recorded with copies of the weights: right until they move."""
    held = []

    def run(*args):
        held.extend(
            [arg.detach().clone().requires_grad_() if isinstance(arg, nn.Parameter) else None for arg in args]
            if not held
            else []
        )
        return graph.forward(
            *(arg if copy is None else arg + (copy - arg).detach() for arg, copy in zip(args, held))
        )

    return run


def not_finite_later(graph, inputs):
    """Right until the weights move, then no number at all."""
    held = []

    def run(*args):
        weights = [arg.detach().clone() for arg in args if isinstance(arg, nn.Parameter)]
        held.append(weights)
        same = all(map(torch.equal, weights, held[0]))
        return [output if same else float("nan") * output for output in graph.forward(*args)]

    return run


def failing(graph, _inputs):
    def run(*_args):
        raise RuntimeError(
            "accessing tensor output of CUDAGraphs that has been overwritten\nby a subsequent run"
        )

    return run


def slow(graph, inputs):
    first = plain(graph, inputs)
    return lambda *args: (time.sleep(0.004), first(*args))[1]


@pytest.mark.parametrize(
    "way, said",
    [
        (fast, "compiled with CUDA graphs: .* gradients 0e[+]00 apart$"),
        (slow, "compiled without CUDA graphs: .* gradients 0e[+]00 apart$"),
        (wrong, "without CUDA graphs: .* gradients [12]e-02 apart$"),
        (holding_copies, r"without CUDA graphs: .* gradients \de-0[12] apart$"),
        (not_finite_later, "without CUDA graphs: .* gradients nan apart$"),
        (
            failing,
            "without CUDA graphs: they fail here, accessing tensor output of CUDAGraphs that has been "
            "overwritten$",
        ),
    ],
)
def test_the_faster_way_is_gone_if_it_is_right(way, said, monkeypatch):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = toys.Classifier(toys.Config(dropout=0.5, norm="batch"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen, batch = [], dict(x=torch.randn(16, 2), y=torch.randn(16))

    def gradient(batch, size, step):
        seen.append(step)
        mse_loss(model(batch["x"]), batch["y"]).backward()

    share, lines = (batch, 16, None), []
    monkeypatch.setitem(cuda_graphs.WAYS, "cpu", (dict(backend=plain), dict(backend=way)))
    stream = cuda_graphs.with_graphs(
        model, iter([share, "next"]), gradient, lambda step: seed_step(1, 0, step), 7, lines.append
    )
    assert [*stream] == [share, "next"] and set(seen) == {7}
    assert len(lines) == 1 and re.search(said, lines[0]), lines
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.state_dict().keys() == before.keys()
    calls = count()
    monkeypatch.setattr(time, "sleep", lambda _seconds: next(calls))
    model(batch["x"])  # compiled anew where the first way is gone, which sleeps
    assert bool(next(calls)) == (way is not fast)
    torch.compiler.reset()


@pytest.mark.parametrize("way", [fast, wrong])
def test_a_run_is_none_the_different_for_the_trial(way, tmp_path, monkeypatch):
    """Interrupted after the trial, and tried again at another step when it goes on."""
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self, backend=fast: setattr(
            self, "_compiled_call_impl", torch.compile(self._call_impl, backend=backend)
        ),
    )
    monkeypatch.setitem(cuda_graphs.WAYS, "cpu", (dict(backend=plain), dict(backend=way)))
    argv = [
        "--task",
        "toy",
        "--norm",
        "batch",
        "--epochs",
        "2",
        "--batch_size",
        "32",
        "--device",
        "cpu",
        "--patience",
        "0",
    ]
    train.main([*argv, "--save_dir", str(tmp_path / "plain")])
    train.main([*argv, "--save_dir", str(tmp_path / "tried"), "--compile"])
    with pytest.raises(SystemExit):
        train.main([*argv, "--save_dir", str(tmp_path / "broken"), "--compile", "--max_time", "0.0001"])
    for _ in range(2):  # the second finds the run ended
        train.main([*argv, "--save_dir", str(tmp_path / "broken"), "--compile"])
    torch.compiler.reset()
    how = "with CUDA graphs" if way is fast else "without CUDA graphs"
    assert [
        (tmp_path / name / "train.log").read_text().count(f"compiled {how}: ")
        for name in ("plain", "tried", "broken")
    ] == [0, 1, 2]
    plain_state, *others = (
        checkpoint.load(tmp_path / name / "last.pt")["state"] for name in ("plain", "tried", "broken")
    )
    for state in others:
        assert {part: checkpoint.digest(state[part]) for part in state} == {
            part: checkpoint.digest(plain_state[part]) for part in state
        }
