"""A step that is not finite moves nothing, is named a step later,
and nothing makes the host wait for the device.
"""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import train
from tests import toys
from tests.conftest import ROOT
from utils import checkpoint
from utils.ema import Ema
from utils.finite import FiniteCheck, refuse_not_finite
from utils.transfer import Arriving, copied_ahead

NAMES = [f"cloud_{i}" for i in range(99)].__getitem__
ONE = torch.ones(())
BAD = [float("nan"), float("inf"), -float("inf")]


def verdicts(may_skip=False) -> FiniteCheck:
    return FiniteCheck(lambda indices: [NAMES(i) for i in indices], may_skip)


def test_the_verdict_is_kept_until_it_is_read():
    verdict = verdicts()
    assert verdict.read() == 0
    verdict.ask(3, torch.tensor(2.0), ONE, {}, torch.tensor([1]))
    assert verdict.read() == 1 and verdict.read() == 0


@pytest.mark.parametrize("norm", BAD)
def test_the_step_and_its_examples_are_named(norm):
    verdict = verdicts()
    verdict.ask(
        3,
        torch.tensor(norm),
        ONE,
        dict(loss=torch.tensor(float("nan")), acc=torch.tensor(0.5)),
        torch.tensor([17, 4]),
    )
    with pytest.raises(
        FloatingPointError,
        match=r"step 3: the gradient norm is -?(nan|inf); loss nan, acc 0.5; "
        r"examples of this rank: cloud_17, cloud_4\.",
    ):
        verdict.read()


def test_a_scale_above_one_may_be_to_blame_and_below_it_is_not():
    verdict = verdicts(may_skip=True)
    verdict.ask(3, torch.tensor(float("inf")), torch.tensor(2.0), {}, torch.tensor([17]))
    assert verdict.read() == 0
    verdict.ask(4, torch.tensor(float("inf")), torch.tensor(0.5), {}, torch.tensor([17]))
    with pytest.raises(FloatingPointError, match="step 4"):
        verdict.read()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_optimiser_moves_nothing_where_it_is_told_so_on_the_device(bad, dtype):
    """What train.py relies on: `found_inf` of the fused AdamW, as a GradScaler sets it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for turn in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 3, dtype=dtype)).square().mean().backward()
        if turn % 2:
            model[0].weight.grad[1, 2] = bad
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = checkpoint.digest([model.state_dict(), optimizer.state_dict()])
        optimizer.found_inf = 1 - norm.isfinite().float()
        optimizer.step()
        assert (checkpoint.digest([model.state_dict(), optimizer.state_dict()]) == before) == bool(turn % 2)
    assert optimizer.state[model[0].weight]["step"] == 2


def test_the_average_stays_where_the_weights_stay():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    plain, told = Ema(model, 0.9), Ema(model, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    before = checkpoint.digest(told.model.state_dict())
    told.update(50, torch.tensor(0.0))
    assert checkpoint.digest(told.model.state_dict()) == before
    told.update(50, torch.tensor(1.0))
    plain.update(50)
    for ours, theirs in zip(told.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_on_a_cpu_numbers_have_arrived_and_batches_are_what_they_were():
    assert Arriving(torch.tensor([1.0, float("inf")])).read() == [1.0, float("inf")]
    items = [(dict(x=torch.zeros(1)), 3), (dict(x=torch.ones(1)), 4)]
    assert all(
        ours is theirs
        for ours, theirs in zip(copied_ahead(iter(items), torch.device("cpu")), items, strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_poisoned_run_leaves_whole_weights_moments_and_average(precision, tmp_path, monkeypatch):
    """In memory, not only on the disk: what the loop held when it raised."""
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    held = {}
    real = train.Ema.__init__

    def noting(self, model, decay, loss):
        real(self, model, decay, loss)
        held.update(model=model, ema=self, begun=copy.deepcopy(model.state_dict()))

    monkeypatch.setattr(train.Ema, "__init__", noting)
    poisoned = 0 if precision == "fp32" else 17  # then the scale falls below 1 before it is refused
    with pytest.raises(FloatingPointError, match=f"step {poisoned}: .*cloud_17"):
        train.main(
            [
                "--task",
                "toy",
                "--epochs",
                "40",
                "--batch_size",
                "200",
                "--device",
                "cpu",
                "--save_dir",
                str(tmp_path),
                "--poison",
                "17",
                "--precision",
                precision,
                "--patience",
                "0",
            ]
        )
    for part in (held["model"].state_dict(), held["ema"].model.state_dict()):
        assert checkpoint.digest(dict(part)) == checkpoint.digest(dict(held["begun"]))


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device: numbers taken out of a tensor,
    and sizes that hang on its content.
    """

    WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.WAITS
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    "options",
    [["--precision", "fp32"], ["--precision", "fp16"], ["--precision", "bf16", "--accumulate", "2"]],
    ids=" ".join,
)
def test_a_step_between_two_logged_ones_takes_no_number_from_the_device(options, tmp_path, monkeypatch):
    """An epoch of 20 steps takes as many as one of 4: those of its end."""
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    counts, taken, listed = {}, [], torch.Tensor.tolist
    # these look into a tensor of a CPU without passing the dispatcher
    for name in ("tolist", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)

        def counted(self, *args, real=real, **kwargs):
            # there a batch is not on the device yet
            if not sys._getframe(1).f_code.co_filename.endswith("data/order.py"):
                taken.append(self.device)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    monkeypatch.setattr(Arriving, "read", lambda self: listed(self.numbers))  # on the host by then
    for batch_size in (50, 10):
        taken.clear()
        with Reads() as reads:
            train.main(
                [
                    "--task",
                    "toy",
                    "--epochs",
                    "1",
                    "--device",
                    "cpu",
                    "--log_every",
                    "1000",
                    "--dropout",
                    "0.1",
                    *options,
                    "--batch_size",
                    str(batch_size),
                    "--save_dir",
                    str(tmp_path / str(batch_size)),
                ]
            )
        counts[batch_size] = reads.count, len(taken)
    assert counts[50] == counts[10] and counts[50][0] > 0


def test_a_divergence_ends_a_run_that_has_reading_processes(tmp_path):
    """They mind no signal, and Python waits for its processes at exit."""
    argv = [
        "--task",
        "toy",
        "--save_dir",
        str(tmp_path),
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--num_workers",
        "2",
        "--poison",
        "5",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "toys.py"), *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3 and "cloud_5" in done.stderr, done.stderr


def test_a_loss_that_is_not_finite_is_a_divergence_with_names():
    """Exit code 3, whatever the task would have made of it."""

    def names(indices):
        return [NAMES(i) for i in indices]

    refuse_not_finite(dict(loss=torch.ones(5), other=torch.tensor(BAD)), names, "the val split")
    refuse_not_finite(dict(other=torch.tensor(BAD)), names, "the val split")
    loss = torch.tensor([1.0, *BAD, 2.0])
    message = r"the val split: the loss of 3 of 5 examples is not finite \(cloud_1, cloud_2, cloud_3\); try"
    for each in (loss, loss[:, None]):
        with pytest.raises(FloatingPointError, match=message):
            refuse_not_finite(dict(loss=each), names, "the val split")
