"""The learning rate against torch's own schedulers and closed forms."""

import pytest
import torch

from utils.mistake import Mistake
from utils.schedule import ScheduleConfig, learning_rate, reductions

EPOCH, EPOCHS = 10, 8


def rates(**options):
    config = ScheduleConfig(lr=0.1, min_lr=options.pop("min_lr", 0.0), **options)
    return [learning_rate(config, update, EPOCH, EPOCH * EPOCHS, []) for update in range(EPOCH * EPOCHS)]


def torch_rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, seen = make(optimizer), []
    for _ in range(EPOCH * EPOCHS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_is_torchs():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCH * EPOCHS, eta_min=0.01)
    )
    assert rates(scheduler="cosine", warmup_epochs=0, min_lr=0.01) == pytest.approx(expected)


def test_step_is_torchs():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 3 * EPOCH, gamma=0.5))
    assert rates(scheduler="step", warmup_epochs=0, step_size=3, gamma=0.5) == pytest.approx(expected)


def test_exp_is_torchs_at_every_epoch():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.9 ** (1 / EPOCH)))
    assert rates(scheduler="exp", warmup_epochs=0, gamma=0.9) == pytest.approx(expected)


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_ends_at_the_floor():
    seen = rates(scheduler="cosine", warmup_epochs=2, min_lr=1e-4)
    assert seen[:20] == pytest.approx([0.1 * (k + 1) / 20 for k in range(20)])
    assert max(seen) == pytest.approx(0.1) and 1e-4 <= seen[-1] < 3e-4


@pytest.mark.parametrize("patience,cooldown", [(0, 0), (1, 0), (2, 2), (3, 1)])
def test_plateau_is_torchs(patience, cooldown):
    generator = torch.Generator().manual_seed(1)
    values = (torch.rand(60, generator=generator) + torch.linspace(1, 0.6, 60)).tolist()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.5,
        patience=patience,
        cooldown=cooldown,
        threshold=0.0,
        threshold_mode="abs",
        eps=0,
    )
    for epoch, value in enumerate(values):
        theirs.step(value)
        assert 0.5 ** reductions(values[: epoch + 1], patience, cooldown) == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(lr=0.0), "--lr: got 0"),
        (dict(min_lr=1.0), "--min_lr: got 1"),
        (dict(gamma=1.5), "--gamma"),
        (dict(step_size=0), "--step_size"),
        (dict(warmup_epochs=-1), "--warmup_epochs"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(Mistake, match=message):
        ScheduleConfig(**options)
