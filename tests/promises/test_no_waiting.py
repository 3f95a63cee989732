"""A training step never waits for the device. Shown on `meta`, which computes shapes alone:
who asks it for a number fails.

What would copy from the host, or mix tensors of both, is found by looking at every operator; both are as slow
as a question on a GPU. Not seen: torch.tensor(numbers, device=...), which copies before an operator is asked.
"""

import contextlib
import sys
import traceback
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from contract import Objective
from model import MODELS
from tasks import lens
from tasks.lens.asked import answer_batch
from tests import toys
from tests.tasks.lens.test_networks import LENS, METADATA
from tests.tasks.light_curve.test_task import build, stores, survey  # noqa: F401  fixtures
from utils import config

META, ROOT = torch.device("meta"), str(Path(train.__file__).parent)
WAITS = {"gat_lens": "makes lists of edges as long as they are, and says so"}
OPTIONS = {
    "plain": [],
    "smoothed": ["--smoothing_mode", "gaussian"],
    "guided": ["--smoothing_mode", "guided"],
    "median": ["--use_mad"],
    "psf": ["--smoothing_mode", "psf", "--psf_target", "6", "--psf_fwhm_slsim", "4", "--psf_fwhm_hsc", "4"],
    "padded": ["--apply_padding"],
    "rotated": ["--rotate", "0.5"],
    "degraded": ["--degrade_noise", "0.5", "--degrade_seeing", "0.5"],
    "recomputed": ["--recompute"],
    "domains": ["--domain_adversarial", "--label_domain", "slsim"],
    "attacked": ["--adversarial", "l2", "--adversarial_steps", "2"],
    "physics": [
        "--use_physics",
        "--regression",
        "all",
        "--physics_terms",
        "lens_equation",
        "mass_conservation",
        "shear_consistency",
    ],
}


class Watch(TorchDispatchMode):
    """Notes each operator of ours whose tensors are not all on one device,
    but for a number of the host beside tensors of the device.
    """

    def __init__(self):
        super().__init__()
        self.noted = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        given, made = (
            {t.device for t in some if isinstance(t, Tensor)} for some in (tensors, tree_leaves(result))
        )
        if len({t.device for t in tensors if t.ndim or t.device == META}) > 1 or given and made - given:
            where = [
                frame
                for frame in traceback.extract_stack()
                if frame.filename.startswith(ROOT) and "/tests/" not in frame.filename
            ]
            self.noted.add(f"{operator} in {where[-1].filename.removeprefix(ROOT)}:{where[-1].lineno}")
        return result


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    """`meta` has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)


def noted_on_meta(task, monkeypatch, ask=None) -> set[str]:
    """What is noted in the second step, judgement and prediction;
    in the first, tables are made that stay on the device.

    Preprocessing reads its settings from the device when the network moves, once:
    here it keeps those that it has.
    """
    batch = {name: tensor.to(META) for name, tensor in task.data["train"].__getitems__(range(12)).items()}
    monkeypatch.setattr("models.layers.preprocess.Preprocess.follow_recipe", lambda self: None)
    model = task.model.to(META)
    for _ in range(2):
        with Watch() as watch:
            value, terms, _ = Objective(model.train(), task.loss, torch.float32)(batch, 0)
            value.sum().backward()
            with torch.no_grad():
                columns = task.measure(model.eval(), batch) | (ask(model, batch) if ask else {})
    assert {t.device for t in (value, *terms.values(), *columns.values())} == {META}
    assert {p.grad.device for p in model.parameters() if p.grad is not None} == {META}
    return watch.noted


@pytest.mark.parametrize(
    "name, kind",
    [("convnextv2", kind) for kind in OPTIONS]
    + [(name, "physics" if MODELS[name].physics else "plain") for name in LENS if name != "convnextv2"],
)
def test_a_lens_network(name, kind, challenge, tmp_path, monkeypatch):
    argv = [
        "--data",
        str(challenge),
        "--store_dir",
        str(tmp_path),
        "--band_mode",
        "stack",
        "--apply_normalization",
        "--low_clip_q",
        "0.01",
        "--model",
        name,
        *MODELS[name].small,
        *OPTIONS[kind],
        *(METADATA if kind in ("plain", "physics") else []),
    ]
    options = config.read_options(argv, lens.Config)[0]
    task = lens.build(options, tmp_path, 1)
    with pytest.raises(NotImplementedError, match="nonzero") if name in WAITS else contextlib.nullcontext():
        assert not noted_on_meta(
            task, monkeypatch, partial(answer_batch, names=(), tta=True) if kind == "plain" else None
        )


def test_the_light_curve_network(build, monkeypatch):  # noqa: F811  the fixture
    assert not noted_on_meta(build(), monkeypatch)


class Uniform(toys.Clouds):
    uniform = True


class Enough(Exception):
    """The steps that were to be seen are over."""


@pytest.mark.parametrize("deterministic", ["run", "elastic"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_loop(precision, accumulate, deterministic, tmp_path, monkeypatch):
    """Between two logged lines; the verdict on a step is read a step later,
    when it has arrived (utils/finite.py).
    """
    seen, real, devices = [], train.seed_step, "_get_fused_kernels_supported_devices"
    modules = [sys.modules[f"torch.{name}"] for name in ("optim.optimizer", "utils._foreach_utils")]
    fused = getattr(modules[0], devices)()

    def seed(*arguments):
        seen.append(arguments)
        if len(seen) == 6:
            raise Enough
        real(*arguments)

    monkeypatch.setattr(train, "seed_step", seed)
    monkeypatch.setattr("utils.transfer.Arriving.__init__", lambda self, numbers: None)
    monkeypatch.setattr("utils.transfer.Arriving.read", lambda self: [1.0, 1.0])
    for module in modules:
        monkeypatch.setattr(module, devices, lambda: [*fused, "meta"])
    options = toys.Config(norm="batch", examples=320)
    task = train.Task(
        toys.Classifier(options),
        {split: Uniform(options, split) for split in ("train", "val", "test")},
        toys.loss,
        toys.measure,
        {"loss": "min"},
    )
    told = train.TrainConfig(
        epochs=1,
        batch_size=32,
        precision=precision,
        accumulate=accumulate,
        resident="yes",
        log_every=10**6,
        lanes=4,
        deterministic=deterministic,
        save_dir=str(tmp_path),
    )
    monkeypatch.setattr(train.distributed, "device_for", lambda name: (META, ""))
    with pytest.raises(Enough):
        train.run(train.Configs(told, train.OptimizerConfig(), train.ScheduleConfig()), task=task)
