"""What every network promises, checked for every network in model.py:
a new one is held to it without a line here.
"""

import numpy as np
import pytest
import torch

import train
from contract import Objective
from model import MODELS
from tasks import TASKS
from utils.mistake import Mistake

NETWORK = ("--model", "--model_size", "--model_kwargs")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return {task: TASKS[task].tiny(tmp_path_factory.mktemp(task)) for task in TASKS}


def flags_for(name: str, tiny: dict[str, list[str]]) -> list[str]:
    """The tiny data of the network's task, with this network in place of the task's own small one."""
    kept, dropping = [], False
    for word in tiny[MODELS[name].task]:
        dropping = word in NETWORK if word.startswith("--") else dropping
        kept += [] if dropping else [word]
    return [*kept, "--model", name, *MODELS[name].small]


def posed(name: str, tiny: dict[str, list[str]], folder) -> train.Task:
    """By --model alone: it finds its task. Skips a network whose package is not installed."""
    torch.manual_seed(0)
    configs = train.read_configs([*flags_for(name, tiny), "--save_dir", str(folder)])
    assert configs.options.task == MODELS[name].task
    try:
        return TASKS[configs.options.task].build(configs.task, folder, 0)
    except Mistake as mistake:
        if "pip install" not in str(mistake):
            raise
        pytest.skip(str(mistake))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_trains_on_the_data_of_its_task(name, tiny, tmp_path):
    """One finite loss an example, which moves with it; every weight that is trained has a finite gradient."""
    task = posed(name, tiny, tmp_path)
    batch = task.data["train"].__getitems__(np.arange(4))
    objective = Objective(task.model.eval(), task.loss, torch.float32)
    with torch.no_grad():
        loss = objective(batch, 0)
        turned = objective({field: tensor.flip(0) for field, tensor in batch.items()}, 0)
    assert loss.value.shape == (4,) and loss.value.isfinite().all()
    torch.testing.assert_close(turned.value.flip(0), loss.value, rtol=1e-4, atol=1e-4)
    objective.train()
    objective(batch, 1).value.sum().backward()
    weights = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights.values())
    assert any(p.grad.abs().sum() > 0 for p in weights.values())  # some wait behind a scale that begins at 0


@pytest.mark.parametrize("name", MODELS)
def test_its_record_rebuilds_it(name, tiny, tmp_path):
    task = posed(name, tiny, tmp_path)
    configs = train.read_configs(flags_for(name, tiny))
    record = dict(options=configs.flat, data=dict(task.record))
    rebuilt = TASKS[MODELS[name].task].rebuild(record)
    rebuilt.load_state_dict(task.model.state_dict())
    assert [n for n, _ in rebuilt.named_parameters()] == [n for n, _ in task.model.named_parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_its_features_are_as_long_as_it_says(name, tiny, tmp_path):
    task = posed(name, tiny, tmp_path)
    network = task.model.network if MODELS[name].task == "lens" else task.model
    assert network.feature_dim > 0
