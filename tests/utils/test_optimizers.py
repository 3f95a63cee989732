"""One promise for every optimiser: it moves nothing where told not to, resumes to the bit,
and is its library's."""

import copy
import subprocess
import sys

import pytest
import schedulefree
import torch
from pytorch_optimizer import Lion, SophiaH
from torch import nn

import train
from tests import toys
from tests.conftest import ROOT
from utils import checkpoint
from utils.mistake import Mistake
from utils.optimizers import EVERY, OptimizerConfig, build_optimizer, parameter_groups, scales_by_prefix

NAMES = ["adamw", "sgd", "lion", "adafactor", "muon", "schedulefree", "sophia"]
LR = 1e-2
BATCH = 8


class Network(nn.Module):
    """A kernel, a matrix, biases and a norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.GroupNorm(1, 3)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).flatten(1))


def fresh(name: str, **options):
    torch.manual_seed(1)
    model = Network()
    return model, build_optimizer(
        OptimizerConfig(optimizer=name, **options), model.named_parameters(), LR, BATCH
    )


def step(model, optimizer, number: int, poisoned: bool = False) -> None:
    """As the loop takes it: the device's verdict at once, the host's before the next step."""
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad()
    model(torch.randn(BATCH, 1, 4, 4, generator=generator)).square().mean().backward()
    if poisoned:
        model.head.bias.grad[0] = float("nan")
        model.conv.weight.grad.mul_(float("inf"))
    optimizer.set_rate(LR)
    optimizer.skips = torch.tensor(float(poisoned))
    optimizer.step()
    optimizer.settle(not poisoned)


def bits(model, optimizer) -> str:
    return checkpoint.digest([model.state_dict(), optimizer.state_dict()])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 1, 11])
def test_it_moves_nothing_where_told_not_to(name, at):
    """No weight, no moment, no counter, also in the first step, which makes the moments."""
    (model, optimizer), (undisturbed, its_optimizer) = fresh(name), fresh(name)
    for number in range(14):
        if number == at:
            weights, both = checkpoint.digest(model.state_dict()), bits(model, optimizer)
            step(model, optimizer, 100, poisoned=True)
            assert checkpoint.digest(model.state_dict()) == weights
            assert at == 0 or bits(model, optimizer) == both  # the first step may make moments that are zero
        step(model, optimizer, number)
        step(undisturbed, its_optimizer, number)
    assert bits(model, optimizer) == bits(undisturbed, its_optimizer)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_it_resumes_to_the_bit(name):
    model, optimizer = fresh(name)
    for number in range(12):
        step(model, optimizer, number)
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    again, its_optimizer = fresh(name)
    again.load_state_dict(saved[0])
    its_optimizer.load_state_dict(saved[1])
    for number in range(12, 24):
        step(model, optimizer, number)
        step(again, its_optimizer, number)
    assert bits(model, optimizer) == bits(again, its_optimizer)


def of_the_library(name: str, model: nn.Module):
    """The optimiser as its own package makes it, and how it takes a step."""
    decays = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [dict(params=decays, weight_decay=0.05), dict(params=others, weight_decay=0.0)]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=LR, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=LR, momentum=0.9, nesterov=True)
    if name == "lion":
        return Lion(groups, lr=LR)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=LR)
    if name == "schedulefree":
        optimizer = schedulefree.AdamWScheduleFree(groups, lr=LR)
        optimizer.train()
        return optimizer
    return SophiaH(groups, lr=LR, update_period=EVERY)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "muon"])
def test_it_is_the_librarys(name):
    model, optimizer = fresh(name)
    theirs = copy.deepcopy(model)
    library = of_the_library(name, theirs)
    for number in range(12):
        step(model, optimizer, number)
        library.zero_grad()
        theirs(
            torch.randn(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(number))
        ).square().mean().backward()
        if name == "sophia" and number % EVERY == 0:  # the Gauss-Newton-Bartlett estimate, by hand
            weights = [p for group in library.param_groups for p in group["params"]]
            library.step(hessian=[BATCH * p.grad * p.grad for p in weights])
        else:
            library.step()
    for ours, its in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, its, rtol=0, atol=0)


def test_muon_is_torchs_for_matrices_beside_adamw():
    model, optimizer = fresh("muon")
    theirs = copy.deepcopy(model)
    muon = torch.optim.Muon([theirs.head.weight], lr=LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    rest = [theirs.conv.weight], [theirs.conv.bias, theirs.norm.weight, theirs.norm.bias, theirs.head.bias]
    adamw = torch.optim.AdamW(
        [dict(params=rest[0], weight_decay=0.05), dict(params=rest[1], weight_decay=0.0)], lr=LR, fused=True
    )
    for number in range(5):
        step(model, optimizer, number)
        theirs.zero_grad()
        theirs(
            torch.randn(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(number))
        ).square().mean().backward()
        muon.step()
        adamw.step()
    for ours, its in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, its, rtol=0, atol=0)


def test_a_group_has_its_share_of_the_rate():
    """Plain gradient descent moves a weight by its rate times its gradient."""
    model, optimizer = fresh("sgd", momentum=0.0, weight_decay=0.0, lr_scale=["head=0.1", "head.bias=3"])
    before = copy.deepcopy(model)
    step(model, optimizer, 0)
    for name, rate in (("conv.weight", LR), ("head.weight", 0.1 * LR), ("head.bias", 3 * LR)):
        weight, was = model.get_parameter(name), before.get_parameter(name)
        torch.testing.assert_close(weight.detach(), was.detach() - rate * weight.grad)
    assert optimizer.rates() == {
        "lr_x1": LR,
        "lr_x0.1": pytest.approx(0.1 * LR),
        "lr_x3": pytest.approx(3 * LR),
    }
    optimizer.load_state_dict(optimizer.state_dict())
    assert sorted({group["lr_scale"] for group in optimizer.param_groups}) == [0.1, 1.0, 3.0]


def test_what_a_task_says_of_rates_is_gone_over_by_the_option():
    model = Network()
    config = OptimizerConfig(lr_scale=["head.bias=3"])
    halved = build_optimizer(
        config, model.named_parameters(), LR, BATCH, lambda name: 0.5 if name.startswith("head") else 1.0
    )
    scales = {id(p): group["lr_scale"] for group in halved.param_groups for p in group["params"]}
    assert scales[id(model.head.weight)] == 0.5 and scales[id(model.head.bias)] == 3
    assert scales[id(model.conv.weight)] == 1


def test_biases_and_norms_do_not_decay_and_what_is_frozen_is_left_out():
    model = Network()
    model.conv.requires_grad_(False)
    decaying, others = parameter_groups(model.named_parameters(), 0.05)
    assert [p is model.head.weight for p in decaying["params"]] == [True] and decaying["weight_decay"] == 0.05
    assert len(others["params"]) == 3 and others["weight_decay"] == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(betas=[0.9]), "--betas: got 0.9, expected two numbers"),
        (dict(betas=[0.9, 1.0]), "--betas: got 1, expected at least 0 and below 1"),
        (dict(momentum=1.0), "--momentum: got 1, expected at least 0 and below 1"),
        (dict(weight_decay=-1.0), "--weight_decay: got -1, expected at least 0"),
        (dict(lr_scale=["head"]), "--lr_scale: got 'head', expected prefix=factor"),
        (dict(lr_scale=["head=x"]), "--lr_scale: got 'head=x', expected prefix=factor"),
        (dict(lr_scale=["head=0"]), "--lr_scale: got 'head=0', expected prefix=factor"),
        (dict(lr_scale=["=2"]), "--lr_scale: got '=2', expected prefix=factor"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(Mistake) as caught:
        OptimizerConfig(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_that_need_the_network_are_one_line(monkeypatch):
    with pytest.raises(
        Mistake, match="--lr_scale: no weight's name begins with 'haed'; there is 'conv.weight'"
    ):
        fresh("adamw", lr_scale=["haed=2"])
    with pytest.raises(Mistake, match="--betas: --optimizer sgd has none"):
        fresh("sgd", betas=[0.9, 0.99])
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(
        Mistake, match="--optimizer lion: needs pytorch_optimizer; pip install -r requirements-op"
    ):
        fresh("lion")
    assert scales_by_prefix(["a.b=0.5"]) == {"a.b": 0.5}


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    monkeypatch.setattr("utils.plots.save_figure", lambda *_: None)

    def run(folder, name, *options):
        alone = ["--scheduler", "constant", "--ema_decay", "0"] if name == "schedulefree" else []
        argv = ["--task", "toy", "--epochs", "3", "--batch_size", "32", "--device", "cpu", "--lr", "0.01"]
        argv += ["--optimizer", name, "--save_dir", str(folder), "--warmup_epochs", "0", *alone, *options]
        return train.run(train.read_configs(argv))

    return run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "how", [(), ("--precision", "fp16"), ("--deterministic", "elastic")], ids=["fp32", "fp16", "elastic"]
)
def test_it_trains_and_its_killed_run_ends_on_the_same_bits(name, how, toy, tmp_path):
    whole = toy(tmp_path / "whole", name, *how)
    assert whole["last"]["val_loss"] < 0.69
    toy(tmp_path / "broken", name, *how, "--max_time", "0:00:00")
    assert checkpoint.load(tmp_path / "broken" / "last.pt")["state"]["progress"]["step"] == 1
    toy(tmp_path / "broken", name, *how)
    ends = [checkpoint.load(tmp_path / run / "last.pt")["state"] for run in ("whole", "broken")]
    assert checkpoint.digest(ends[0]) == checkpoint.digest(ends[1])


def test_schedule_free_weights_are_judged_where_they_average(toy, tmp_path):
    """best.pt holds the averages (x), last.pt the weights that are trained (y):
    not the same, and y goes on unharmed.
    """
    toy(tmp_path, "schedulefree")
    last, best = (checkpoint.load(tmp_path / name) for name in ("last.pt", "best.pt"))
    state = last["state"]["optimizer"]
    names = [*last["state"]["model"]]
    model = toys.Classifier(toys.Config())
    model.load_state_dict(last["state"]["model"])
    groups = parameter_groups(model.named_parameters(), 0.05)
    ordered = [p for group in groups for p in group["params"]]
    average = {
        id(p): p.detach().lerp(state["state"][number]["z"], 1 - 1 / 0.9) for number, p in enumerate(ordered)
    }
    assert best["epoch"] == 3
    for name in names:
        torch.testing.assert_close(best["model"][name], average[id(model.get_parameter(name))])


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--scheduler", "cosine"],
            "--scheduler: got 'cosine' with --optimizer schedulefree, expected constant",
        ),
        (["--ema_decay", "0.9"], "--ema_decay: got 0.9 with --optimizer schedulefree, which averages itself"),
    ],
)
def test_schedule_free_has_no_other_schedule_or_average(toy, tmp_path, options, message):
    with pytest.raises(Mistake, match=message):
        toy(tmp_path, "schedulefree", *options)


def test_rates_that_differ_are_in_the_log(toy, tmp_path):
    toy(tmp_path, "adamw", "--lr_scale", "body=0.1", "--log_every", "1")
    text = (tmp_path / "train.log").read_text()
    assert "lr_x0.1 " in text and "lr_x1 " in text


def test_two_ranks_train_one_network_with_each(tmp_path):
    """By DDP: the ranks agree to the bit at the end of each epoch, or the run would have ended there."""
    words = []
    for name in NAMES:
        alone = ["--scheduler", "constant", "--ema_decay", "0"] if name == "schedulefree" else []
        flags = [
            "--task",
            "toy",
            "--epochs",
            "1",
            "--batch_size",
            "32",
            "--device",
            "cpu",
            "--optimizer",
            name,
        ]
        words += [f"2:0:{tmp_path}/{name}", "--", *flags, "--warmup_epochs", "0", *alone, "++"]
    command = [sys.executable, str(ROOT / "tests" / "forked.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        state = checkpoint.load(tmp_path / name / "last.pt")["state"]
        assert state["progress"]["step"] == 7 and len(state["progress"]["ranks"]) == 2
