"""The learning rate against torch's own schedulers and closed forms."""

import pytest
import torch

from utils.mistake import Mistake
from utils.schedule import ScheduleConfig, learning_rate, reductions

EPOCH, EPOCHS = 10, 8
LR = 0.1


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


def rates_of_torch(scheduler_of, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("rise, start", [(0.3, 25.0), (0.1, 4.0)])
def test_one_cycle_is_torchs(rise, start):
    steps, least = 100, 1e-6
    config = ScheduleConfig(
        lr=LR, scheduler="onecycle", min_lr=least, onecycle_rise=rise, onecycle_start=start, warmup_epochs=2
    )
    ours = [learning_rate(config, step, 10, steps, []) for step in range(steps)]
    theirs = rates_of_torch(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            LR,
            total_steps=steps,
            pct_start=rise,
            div_factor=start,
            final_div_factor=LR / start / least,
        ),
        steps,
    )
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("growth", [1, 2])
def test_restarts_are_torchs(growth):
    config = ScheduleConfig(
        lr=LR,
        scheduler="cosine_restarts",
        warmup_epochs=0,
        restart_epochs=2,
        restart_growth=growth,
        min_lr=1e-5,
    )
    ours = [learning_rate(config, step, 10, 100, []) for step in range(100)]
    theirs = rates_of_torch(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 20, growth, 1e-5),
        100,
    )
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_restarts_begin_after_the_warm_up_and_constant_stays():
    config = ScheduleConfig(
        lr=LR, scheduler="cosine_restarts", warmup_epochs=1, restart_epochs=1, restart_growth=1
    )
    rates = [learning_rate(config, step, 10, 100, []) for step in range(40)]
    assert rates[9] == rates[10] == rates[20] == rates[30] == pytest.approx(LR)
    constant = ScheduleConfig(lr=LR, scheduler="constant", warmup_epochs=1)
    assert {learning_rate(constant, step, 10, 100, []) for step in range(9, 200)} == {LR}
