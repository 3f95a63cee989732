"""Private mode against single examples, Opacus' own accountant and fixtures, and what it must refuse."""

import math

import pytest
import torch
from torch import nn

import train
from contract import Examples, Loss, Objective, Run
from modes import private
from modes.private import Config
from tests import toys
from utils.mistake import Mistake

OFF = torch.amp.GradScaler("cpu", enabled=False)


class Images(Examples):
    def __init__(self, size, channels=1, side=20):
        self.image, self.label = torch.randn(size, channels, side, side), (torch.arange(size) % 2).float()

    def __len__(self):
        return len(self.label)

    def __getitems__(self, indices):
        return dict(image=self.image[indices], label=self.label[indices], index=torch.as_tensor(indices))


def loss(model, batch, step):
    logit = model(batch["image"]).flatten()
    return Loss(nn.functional.binary_cross_entropy_with_logits(logit, batch["label"], reduction="none"), {})


def run_of(model, data, batch_size=8, steps=10, scaler=OFF, loss=loss, **options):
    return Run(
        Objective(model, loss, torch.float32),
        data,
        scaler,
        batch_size,
        steps=steps,
        epochs=1,
        seed=0,
        **dict(accumulate=1) | options,
    )


class Permuted(nn.Module):
    """Hands its convolution channels-last activations, which Opacus' own sampler gets wrong (1.6.0)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 2, stride=2), nn.LayerNorm(3)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.conv(x).contiguous(memory_format=torch.channels_last).mean((2, 3)))


SMALL = {name: dict(size="18", width=0.125) for name in ("robust_resnet", "film_conditioned")}


def networks():
    from model import MODELS, create_model

    yield "permuted", Permuted
    for name, spec in MODELS.items():
        if spec.private:
            yield (
                name,
                lambda name=name, spec=spec: create_model(
                    name, in_chans=1, **SMALL.get(name, dict(size=spec.sizes[0]))
                ),
            )


def randomised(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # GRN starts at zero, which would hide its gradient
    return model


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in networks()])
def test_the_gradient_is_a_plain_loop_over_single_examples(build):
    """Clip each, sum, no noise, divide by the expected size:
    to 1e-5 for every network that declares private.
    """
    clip, data = 0.5, Images(8, side=41)
    model = randomised(build()).double().eval()  # eval: the loop must see the same network, without drop path
    objective = Objective(model, loss, torch.float32)
    data.image = data.image.double()  # double, so that what is compared is algebra, not rounding
    batch = data.__getitems__(list(range(8)))
    weights = [p for p in model.parameters() if p.requires_grad]
    expected, norms = [torch.zeros_like(p) for p in weights], []
    for i in range(8):
        model.zero_grad()
        objective({name: t[i : i + 1] for name, t in batch.items()}, 0).value.sum().backward()
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        norms.append(norm.item())
        for total, p in zip(expected, weights, strict=True):
            total += p.grad * min(1.0, clip / (norm.item() + 1e-6)) / 16
    assert max(norms) > clip  # clipping is at work
    model.train()
    for module in model.modules():  # ... and again without random depth
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    gradient = private.build(
        Config(noise_multiplier=1e-12, max_grad_norm=clip, max_physical_batch=3, target_delta=1e-3),
        run_of(model, Images(500, side=41), batch_size=16),
    )
    gradient(batch, 8, 0)
    scale = max(total.abs().max() for total in expected)
    for total, p in zip(expected, weights, strict=True):
        assert (p.grad - total).abs().max() <= 1e-5 * scale


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_opacus_own_convolution_sampler_is_still_wrong_so_the_detour_is_needed():
    from opacus import GradSampleModule

    conv = nn.Conv2d(3, 4, 3)
    wide = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    hooks = GradSampleModule(conv, loss_reduction="sum")
    hooks(wide).square().sum().backward()
    theirs = conv.weight.grad_sample[0].clone()
    hooks.disable_hooks()
    conv.zero_grad()
    conv(wide[:1]).square().sum().backward()
    assert (theirs - conv.weight.grad).norm() > 0.1 * conv.weight.grad.norm()


def test_one_example_is_bounded():
    data, model = Images(1), Permuted()
    gradient = private.build(
        Config(noise_multiplier=1e-12, max_grad_norm=0.01, target_delta=1e-3), run_of(model, Images(100), 10)
    )
    gradient(data.__getitems__([0]), 1, 0)
    assert torch.stack([p.grad.norm() for p in model.parameters()]).norm() <= 0.01 / 10 * (1 + 1e-5)


def test_an_empty_batch_gives_noise_of_the_right_size():
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 20), nn.Linear(20, 1))
    gradient = private.build(
        Config(noise_multiplier=3.0, max_grad_norm=2.0, target_delta=1e-3), run_of(model, Images(100), 10)
    )
    gradient(Images(1).__getitems__([]), 0, 0)
    drawn = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert drawn.std().item() == pytest.approx(3.0 * 2.0 / 10, rel=0.03) and abs(drawn.mean()) < 0.03


def test_poisson_batches_have_the_right_rate_and_repeat_after_a_restart():
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 1))
    gradient = private.build(Config(target_delta=1e-4), run_of(model, Images(1000), 50))
    sizes = [len(gradient.order(step)) for step in range(400)]
    assert sum(sizes) / 400 == pytest.approx(50, abs=4 * math.sqrt(50 * 0.95 / 400))
    again = private.build(
        Config(target_delta=1e-4), run_of(nn.Sequential(nn.Flatten(), nn.Linear(400, 1)), Images(1000), 50)
    )
    assert again.order(3).tolist() != gradient.order(3).tolist()  # another secret
    again.load_state_dict(gradient.state_dict())
    assert again.order(3).tolist() == gradient.order(3).tolist()


@pytest.mark.parametrize("accountant,low,high", [("rdp", 7.32911, 7.32912), ("prv", 6.76, 6.80)])
def test_epsilon_is_opacus_fixture(accountant, low, high):
    """sigma 1.5, q 0.04, 2,250 steps, delta 1e-5 (opacus/tests/accountants_test.py)."""
    data = Images(2500, side=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    gradient = private.build(
        Config(noise_multiplier=1.5, accountant=accountant), run_of(model, data, 100, steps=2250)
    )
    gradient.accountant.history = [(gradient.noise, gradient.rate, 2250)]
    assert low < gradient.report()["epsilon"] < high


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
@pytest.mark.parametrize("accountant,sigma", [("rdp", 1.3562), ("prv", 1.2915)])
def test_a_target_epsilon_gives_opacus_noise(accountant, sigma):
    """epsilon 8, q 0.04, 2,000 steps, delta 1e-5 (opacus/tests/accountants_test.py)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    gradient = private.build(
        Config(target_epsilon=8.0, accountant=accountant),
        run_of(model, Images(2500, side=2), 100, steps=2000),
    )
    assert gradient.noise == pytest.approx(sigma, abs=0.01)


def test_each_step_is_accounted_as_opacus_counts(tmp_path, monkeypatch):
    from opacus.accountants import RDPAccountant

    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    train.main(
        [
            "--task",
            "toy",
            "--mode",
            "customer_data",
            "--epochs",
            "2",
            "--batch_size",
            "20",
            "--device",
            "cpu",
            "--noise_multiplier",
            "2",
            "--save_dir",
            str(tmp_path),
        ]
    )
    theirs = RDPAccountant()
    for _ in range(20):
        theirs.step(noise_multiplier=2.0, sample_rate=0.1)
    history = torch.load(tmp_path / "last.pt", weights_only=True)["state"]["progress"]["history"]
    assert history[-1]["epsilon"] == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)
    assert "epsilon" in (tmp_path / "results.json").read_text()


class Mixing(nn.Module):
    """Subtracts the mean over the batch: no layer tells, only the check of single examples does."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(400, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        x = self.body(x.flatten(1))
        return self.head(x - x.mean(0) + x.std(0, unbiased=False))


@pytest.mark.parametrize(
    "model,message",
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(648, 1)), "GroupNorm"),
        (Mixing(), "differs from that of the example alone"),
    ],
)
def test_networks_that_mix_examples_are_refused(model, message):
    with pytest.raises(Mistake, match=message):
        gradient = private.build(Config(target_delta=1e-3), run_of(model, Images(100)))
        gradient(Images(8).__getitems__(list(range(8))), 8, 0)


def test_fp16_and_wrong_options_are_refused_with_the_cure():
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 1))
    with pytest.raises(Mistake, match="needs --precision bf16 or fp32"):
        private.build(Config(), run_of(model, Images(100), scaler=torch.amp.GradScaler("cpu", enabled=True)))
    compiled = nn.Linear(4, 1)
    compiled.compile()
    with pytest.raises(Mistake, match="--compile: a compiled network hides its layers"):
        private.build(Config(), run_of(compiled, Images(100)))
    with pytest.raises(Mistake, match="--target_delta: got 0.01, expected less than 1 / examples"):
        private.build(Config(target_delta=0.01), run_of(model, Images(100)))
    with pytest.raises(Mistake, match="give one of them"):
        Config(noise_multiplier=1.0, target_epsilon=2.0)
    with pytest.raises(Mistake, match="--max_grad_norm: got 0"):
        Config(max_grad_norm=0.0)
