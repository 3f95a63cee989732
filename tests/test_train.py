"""The loop's promises to the contract, and `run` as Python calls it; each line was once broken."""

import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import train
from contract import Examples, Gradient, Mode, Task
from tests import toys
from tests.conftest import ROOT
from utils import checkpoint
from utils.mistake import Mistake

SHORT = [
    "--task",
    "toy",
    "--epochs",
    "3",
    "--batch_size",
    "32",
    "--device",
    "cpu",
    "--lr",
    "0.01",
    "--warmup_epochs",
    "0",
]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.plots.save_figure", lambda *_: None)


def run(folder, *options, **named) -> dict:
    return train.run(train.read_configs([*SHORT, "--save_dir", str(folder), *options]), **named)


def state(folder, name: str = "last.pt") -> dict:
    return checkpoint.load(folder / name)


# a loss that is a module
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [(), ("--deterministic", "elastic"), ("--accumulate", "2"), ("--precision", "bf16")]
)
def test_the_weights_of_a_loss_are_trained_averaged_and_saved(how, tmp_path):
    run(tmp_path, "--learnt", "--epochs", "1", *how)
    trained = state(tmp_path)["state"]
    assert (trained["loss"]["log_var"].abs() > 1e-3).all()  # at 0 they began
    assert not torch.equal(trained["ema_loss"]["log_var"], trained["loss"]["log_var"])
    assert trained["ema_loss"]["log_var"].abs().sum() > 0
    assert torch.equal(state(tmp_path, "best.pt")["loss"]["log_var"], trained["ema_loss"]["log_var"])


def test_they_are_resumed_to_the_bit(tmp_path):
    run(tmp_path / "whole", "--learnt")
    assert run(tmp_path / "broken", "--learnt", "--max_time", "0:00:00")["stopped"]
    run(tmp_path / "broken", "--learnt")
    assert checkpoint.digest(state(tmp_path / "whole")["state"]) == checkpoint.digest(
        state(tmp_path / "broken")["state"]
    )


def test_private_training_refuses_them_in_a_line(tmp_path):
    with pytest.raises(
        Mistake, match="this loss has weights of its own, .*customer_data mode needs a loss without"
    ):
        run(tmp_path, "--learnt", "--mode", "customer_data", "--noise_seed", "1")


def test_two_ranks_train_them_alike(tmp_path):
    runs = [f"{ranks}:0:{tmp_path}/{ranks}" for ranks in (1, 2)]
    flags = [*SHORT, "--learnt", "--deterministic", "elastic", "--lanes", "2"]
    command = [sys.executable, str(ROOT / "tests" / "forked.py"), *runs, "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert checkpoint.digest(state(tmp_path / "1")["state"]["loss"]) == checkpoint.digest(
        state(tmp_path / "2")["state"]["loss"]
    )


# a mode that poses another task
# ------------------------------------------------------------------------------


class Clients(Examples):
    """Example c is client c: the clouds c, c + clients, c + 2 clients, ..."""

    def __init__(self, clouds: toys.Clouds, clients: int):
        self.clouds, self.clients = clouds, clients

    def __len__(self) -> int:
        return self.clients

    def __getitems__(self, indices):
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        rows = [
            self.clouds.__getitems__(range(client, len(self.clouds), self.clients))
            for client in index.tolist()
        ]
        return dict(
            x=torch.stack([row["x"] for row in rows]), y=torch.stack([row["y"] for row in rows]), index=index
        )

    def names(self, indices):
        return [f"client_{i}" for i in indices]


@dataclass(frozen=True)
class ClientsConfig:
    clients: int = 20  # parts that the training examples are dealt to


def pose_clients(options: ClientsConfig, task: Task) -> Task:
    def loss(model, batch, step):
        flat = {name: batch[name].flatten(0, 1) for name in ("x", "y")}
        whole = toys.loss(model, flat, step)
        clients = len(batch["index"])
        means = {name: term.view(clients, -1).mean(1) for name, term in whole.terms.items()}
        return whole._replace(value=whole.value.view(clients, -1).mean(1), terms=means)

    data = task.data | dict(train=Clients(task.data["train"], options.clients))
    return train.replace(task, data=data, loss=loss)


class Noting(train.Backprop):
    """The ordinary gradient; notes which clients each step and rank had."""

    dealt: list[list[int]] = []

    def __call__(self, batch, size, step):
        self.dealt.append(batch["index"].tolist())
        return super().__call__(batch, size, step)


def test_a_mode_may_pose_the_task_anew(tmp_path, monkeypatch):
    monkeypatch.setitem(train.ALL_MODES, "clients", Mode(Noting, ClientsConfig, pose_clients))
    monkeypatch.setattr(Noting, "dealt", [])
    results = run(tmp_path, "--mode", "clients", "--batch_size", "10")
    assert results["last"]["val_loss"] < 0.69
    assert sorted(Noting.dealt[0] + Noting.dealt[1]) == list(range(20))  # an epoch: each client once


def test_no_two_lanes_have_the_same_clients(tmp_path):
    """A client is an example, so that lanes are dealt different ones."""
    from data.order import ShuffledEpochs

    order = ShuffledEpochs(20, 10, 0, 2)
    lanes = [order(0)[lane::2] for lane in (0, 1)]
    assert not set(lanes[0]) & set(lanes[1]) and len({*lanes[0], *lanes[1]}) == 10


# what a mode must not forget
# ---------------------------------------------------------------------------------

FORGETFUL = """
import sys
sys.path.insert(0, {root!r})
import torch
import train
from contract import Gradient, Mode
from tests import toys
from utils.config import run_script

class Forgetful(Gradient):
    def __init__(self, options, run):
        self.run = run
    def __call__(self, batch, size, step):
        loss = self.run.objective(batch, step)
        (loss.value.sum() / size).backward()
        return dict(loss=loss.value.detach().sum() / size)

train.ALL_MODES["forgetful"] = Mode(Forgetful)
run_script(toys.main)
"""


def test_a_mode_that_forgets_to_reduce_ends_at_the_first_epoch(tmp_path):
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL.format(root=str(ROOT)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
    ]
    argv = [*SHORT, "--mode", "forgetful", "--save_dir", str(tmp_path / "run")]
    done = subprocess.run([*command, *argv], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert (
        "epoch 1, mode forgetful: the ranks have trained different networks (first difference: body.0.weight)"
        in done.stderr
    )


def test_a_batch_of_other_lengths_ends_with_the_names(tmp_path, monkeypatch):
    real = toys.Clouds.__getitems__

    def short(self, indices):
        batch = real(self, indices)
        return batch | dict(y=batch["y"][:-1])

    monkeypatch.setattr(toys.Clouds, "__getitems__", short)
    with pytest.raises(ValueError, match=r"a batch of \d+ examples has 'y' of shape .*cloud_"):
        run(tmp_path)


# run() ------------------------------------------------------------------------------------------------------


def test_run_works_off_the_main_thread(tmp_path):
    """A notebook, a search or a population calls it; signals are main's alone."""
    found = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert found[0]["stopped"] == 0 and found[0]["last"]["val_loss"] < 0.69 and found[0]["best_epoch"] == 3


def test_run_takes_a_task_that_is_posed_already(tmp_path):
    options = toys.Config()
    data = {split: toys.Clouds(options, split) for split in ("train", "val", "test")}
    task = Task(toys.Classifier(options), data, toys.loss, toys.measure, {"loss": "min"})
    told = train.TrainConfig(epochs=1, batch_size=32, device="cpu", save_dir=str(tmp_path))
    results = train.run(train.Configs(told, train.OptimizerConfig(), train.ScheduleConfig()), task=task)
    assert results["epochs"] == 1 and (tmp_path / "best.pt").exists()


def test_a_run_may_begin_from_another(tmp_path):
    """The weights and moments of last.pt, or the weights of best.pt,
    whatever the other options of that run were.
    """
    run(tmp_path / "parent")
    parent = state(tmp_path / "parent")["state"]
    run(
        tmp_path / "child",
        "--lr",
        "0.02",
        "--max_time",
        "0:00:00",
        begin_from=tmp_path / "parent" / "last.pt",
    )
    child = state(tmp_path / "child")
    assert child["state"]["progress"]["step"] == 1 and child["record"]["options"]["lr"] == 0.02
    steps = {float(moments["step"]) for moments in child["state"]["optimizer"]["state"].values()}
    before = {float(moments["step"]) for moments in parent["optimizer"]["state"].values()}
    assert steps == {before.pop() + 1}
    run(tmp_path / "other", begin_from=tmp_path / "parent" / "best.pt")
    with pytest.raises(Mistake, match="begun_from .* -> "):  # resumed without its parent's other weights
        run(tmp_path / "child", "--lr", "0.02", begin_from=tmp_path / "parent" / "best.pt")


def test_what_a_run_begins_from_must_fit(tmp_path):
    run(tmp_path / "parent", "--epochs", "1")
    with pytest.raises(Mistake, match="last.pt: its model does not fit"):
        run(tmp_path / "child", "--width", "8", begin_from=tmp_path / "parent" / "last.pt")


def test_a_run_that_begins_from_another_has_its_bands(tmp_path, monkeypatch):
    """Channels of other bands, or in another order, have weights of the same shapes."""
    plain = toys.build

    def of_bands(*bands):
        monkeypatch.setattr(toys, "build", lambda *given: replace(plain(*given), record=dict(bands=[*bands])))

    of_bands("g", "r")
    run(tmp_path / "parent", "--epochs", "1")
    parent = tmp_path / "parent" / "last.pt"
    run(tmp_path / "same", "--epochs", "1", begin_from=parent)
    of_bands("r", "g")
    with pytest.raises(
        Mistake, match="was trained on the bands g r, and this run has r g: begin with the same"
    ):
        run(tmp_path / "child", "--epochs", "1", begin_from=parent)


# what can be known before the data
# ----------------------------------------------------------------------------


def test_another_runs_options_are_refused_before_the_data_are_read(tmp_path, monkeypatch):
    run(tmp_path, "--epochs", "1")
    monkeypatch.setattr(toys, "build", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(Mistake, match="--lr 0.01 -> 0.5"):
        run(tmp_path, "--epochs", "1", "--lr", "0.5")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model", "convnextv3"], "unknown model 'convnextv3'.*nearest: convnextv2"),
        (["--model_size", "mano"], "mano"),
        (["--model_kwargs", "widht=2"], "unknown option of model 'convnextv2': 'widht'"),
        (["--task", "lens", "--model", "recurrent_vae"], "recurrent_vae is a network of --task light_curve"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_a_file_is_packed(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.lens.task.from_store", lambda *_: pytest.fail("the files were packed"))
    configs = train.read_configs(
        ["--data", str(tmp_path), "--device", "cpu", "--save_dir", str(tmp_path), *flags]
    )
    with pytest.raises(Mistake, match=message):
        train.run(configs)


def test_a_model_finds_its_task():
    assert train.read_configs(["--model", "recurrent_vae"]).options.task == "light_curve"
    assert train.read_configs(["--model", "gat_lens"]).options.task == "lens"
    assert train.read_configs([]).options.task == "lens"


def test_a_gradient_with_an_order_and_a_report_of_its_own(tmp_path, monkeypatch):
    class Odd(train.Backprop):
        def order(self, step):
            return np.arange(1, 200, 2)

        def report(self):
            return {"oddness": 1.0}

    monkeypatch.setitem(train.ALL_MODES, "odd", Mode(Odd))
    results = run(tmp_path, "--mode", "odd", "--epochs", "1")
    assert results["last"]["oddness"] == 1.0 and issubclass(Odd, Gradient)
