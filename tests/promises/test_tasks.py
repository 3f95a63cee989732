"""What every task promises, checked for every task in tasks/: a new one is held to it without a line here."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import predict
import train
from contract import Objective
from tasks import TASKS
from tests.conftest import ROOT
from utils import checkpoint, config

RUN = ["--epochs", "3", "--batch_size", "8", "--device", "cpu", "--warmup_epochs", "0"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(
        "utils.plots.save_figure", lambda *_: None
    )  # figures are half of the time of such a run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """name -> the flags of its tiny data, which are written once."""
    written: dict[str, list[str]] = {}

    def flags(name: str) -> list[str]:
        if name not in written:
            written[name] = ["--task", name, *TASKS[name].tiny(tmp_path_factory.mktemp(name))]
        return written[name]

    return flags


def posed(flags: list[str], folder) -> train.Task:
    """The task that the flags pose, its network seeded."""
    torch.manual_seed(0)
    configs = train.read_configs([*flags, "--save_dir", str(folder)])
    return TASKS[configs.options.task].build(configs.task, folder, 0)


def trained(flags: list[str], folder, *options: str) -> dict:
    return train.run(train.read_configs([*flags, *RUN, "--save_dir", str(folder), *options]))


def inputs_among(name: str, flags: list[str]) -> list[str]:
    """Those of the flags that say where the data are."""
    known = config.fields_of(TASKS[name].Inputs)
    pairs = zip(flags, flags[1:])
    return [word for flag, value in pairs if flag.removeprefix("--") in known for word in (flag, value)]


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_one_finite_value_an_example_and_moves_with_it(name, tiny, tmp_path):
    task = posed(tiny(name), tmp_path)
    count = min(6, len(task.data["train"]))
    batch = task.data["train"].__getitems__(np.arange(count))
    objective = Objective(task.model.eval(), task.loss, torch.float32)
    loss = objective(batch, 0)
    assert loss.value.shape == (count,) and loss.value.dtype == torch.float32 and loss.value.isfinite().all()
    assert all(term.shape == (count,) and not term.requires_grad for term in loss.terms.values())
    turned = torch.arange(count).flip(0)
    again = objective({field: tensor[turned] for field, tensor in batch.items()}, 0)
    torch.testing.assert_close(again.value, loss.value[turned], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_the_parts_of_a_loss_add_up_to_it_and_each_has_a_gradient(name, tiny, tmp_path):
    task = posed(tiny(name), tmp_path)
    batch = task.data["train"].__getitems__(np.arange(4))
    loss = Objective(task.model.train(), task.loss, torch.float32)(batch, 1)
    assert loss.parts, "a task names the parts of its loss, so that modes can treat them apart"
    torch.testing.assert_close(sum(loss.parts.values()), loss.value)
    for part in loss.parts.values():
        slopes = torch.autograd.grad(
            part.sum(), [*task.model.parameters()], retain_graph=True, allow_unused=True
        )
        assert any(slope is not None and slope.abs().sum() > 0 for slope in slopes)


@pytest.mark.parametrize("name", TASKS)
def test_a_measure_does_not_depend_on_the_batch_size(name, tiny, tmp_path):
    task = posed(tiny(name), tmp_path)
    count = min(5, len(task.data["val"]))
    batch = task.data["val"].__getitems__(np.arange(count))
    with torch.no_grad():
        whole = task.measure(task.model.eval(), batch)
        singly = [task.measure(task.model, {f: t[i : i + 1] for f, t in batch.items()}) for i in range(count)]
    for column, values in whole.items():
        assert len(values) == count
        together = torch.cat([row[column] for row in singly])
        torch.testing.assert_close(together, values, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert np.isfinite(task.summarise(whole)[next(iter(task.monitors))])


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_run_ends_on_the_same_bits(name, tiny, tmp_path):
    trained(tiny(name), tmp_path / "whole")
    assert trained(tiny(name), tmp_path / "broken", "--max_time", "0:00:00")["stopped"]
    trained(tiny(name), tmp_path / "broken")
    ends = [checkpoint.load(tmp_path / run / "last.pt")["state"] for run in ("whole", "broken")]
    assert checkpoint.digest(ends[0]) == checkpoint.digest(ends[1])


@pytest.mark.parametrize("name", TASKS)
def test_a_prediction_knows_its_network_from_the_checkpoint_alone(name, tiny, tmp_path):
    trained(tiny(name), tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    rebuilt = TASKS[name].rebuild(saved["record"])
    rebuilt.load_state_dict(saved["model"])  # strictly: the names are the bare network's
    argv = [
        "--model_path",
        str(tmp_path / "run" / "best.pt"),
        *inputs_among(name, tiny(name)),
        "--device",
        "cpu",
    ]
    for out in ("once", "again"):
        predict.main([*argv, "--which", "test", "--output_dir", str(tmp_path / out)])
    written = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert written and not any(name.startswith("parts") for name in written)
    for file in written:
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.fixture(scope="module")
def by_ranks(tiny, tmp_path_factory):
    """The folder of runs <task>_<ranks> of all tasks, by one process that imports torch once."""
    folder = tmp_path_factory.mktemp("ranks")
    words = []
    for name in TASKS:
        runs = [f"{ranks}:0:{folder}/{name}_{ranks}" for ranks in (1, 2)]
        words += [*runs, "--", *tiny(name), *RUN, "--deterministic", "elastic", "--lanes", "2", "++"]
    command = [sys.executable, str(ROOT / "tests" / "forked.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_two_ranks_equal_one(name, by_ranks):
    """To the bit, whatever the task draws at random in training (--deterministic elastic)."""
    one, two = (checkpoint.load(by_ranks / f"{name}_{ranks}" / "last.pt")["state"] for ranks in (1, 2))
    assert checkpoint.digest(one["model"]) == checkpoint.digest(two["model"])
    assert one["progress"]["history"] == two["progress"]["history"]
