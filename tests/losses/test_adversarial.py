"""Attacks against linear networks, where the best one is known, and what an attack must leave alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contract import InPrecision, Loss, Objective
from losses.adversarial import adversarial, attack
from losses.classification import binary_cross_entropy
from models.layers.augment import Augment
from models.layers.preprocess import Preprocess
from physics.noise import noise_rms


class Linear(nn.Module):
    """A plane through pixel space, behind what is random where `augment` says so."""

    def __init__(self, side=9, channels=2, augment=None, dropout=0.0):
        super().__init__()
        self.weight, self.augment, self.dropout = (
            nn.Parameter(torch.randn(channels, side, side)),
            augment,
            nn.Dropout(dropout),
        )

    def forward(self, image, present):
        if self.augment is not None:
            image, _ = self.augment(image, present)
        return (self.dropout(image) * self.weight).sum((1, 2, 3))


def loss(model, batch, step):
    logit = model(batch["image"], batch["present"])
    return Loss(binary_cross_entropy(logit, batch["label"]), {"logit": logit})


def batch_of(B=6, channels=2, side=9):
    present = torch.rand(B, channels) < 0.7
    image = torch.randn(B, channels, side, side) * torch.tensor([0.02, 4.0])[:channels, None, None]
    return dict(
        image=torch.where(present[:, :, None, None], image, 0.0),
        present=present,
        label=(torch.arange(B) % 2).float(),
    )


def convolutional(channels=2):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, 2),
        nn.GELU(),
        nn.Flatten(),
        nn.LazyLinear(1),
        nn.Flatten(0),
    )


class Preprocessed(nn.Module):
    """As in the lens task: medians, quantiles and clipping, then a random symmetry and noise."""

    def __init__(self, network, side):
        super().__init__()
        self.preprocess, self.network = (
            Preprocess((side, side), smoothing="gaussian", low_clip_q=0.01, use_mad=True),
            network,
        )
        self.augment = Augment()

    def forward(self, image, present):
        x, _ = self.augment(
            self.preprocess(image, present, torch.zeros(len(image), dtype=torch.int64)), present
        )
        return self.network(x).squeeze(1)


class Images(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image, present):
        return self.network(image)


def distances(changed, batch):
    """Largest |change| and root of its summed squares for each image, in noise rms;
    and whether absent bands are as they were.
    """
    shift, rms = (
        changed["image"] - batch["image"],
        noise_rms(batch["image"], batch["present"])[:, :, None, None],
    )
    assert not shift[~batch["present"]].any()
    relative = torch.where(rms > 0, shift / rms.clamp(min=1e-30), 0.0)
    return relative.abs().amax((1, 2, 3)), relative.square().sum((1, 2, 3)).sqrt()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_attack_on_a_plane(norm):
    """The logit can be moved by radius times the dual norm of the slope per rms, and no further."""
    model, batch, radius = Linear(), batch_of(), 0.3
    batch["image"] /= 20  # within reach of the plane
    changed = attack(model, batch, loss, norm=norm, radius=radius, steps=20, step_size=0.5)
    slope = noise_rms(batch["image"], batch["present"])[:, :, None, None] * model.weight.detach()
    dual = slope.abs().sum((1, 2, 3)) if norm == "linf" else slope.square().sum((1, 2, 3)).sqrt()
    before, after = (loss(model, b, 0).terms["logit"] for b in (batch, changed))
    assert torch.allclose(
        after, before - (2 * batch["label"] - 1) * radius * dual, rtol=1e-3, atol=1e-3 * dual.max().item()
    )
    farthest = distances(changed, batch)[norm == "l2"]
    assert torch.allclose(farthest[batch["present"].any(1)], torch.tensor(radius), rtol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps, step_size", [(1, 0.5), (3, 7.0), (10, None)])
def test_never_beyond_the_radius_and_the_loss_rises(norm, steps, step_size):
    model, batch, radius = Images(convolutional()), batch_of(20), 2.0
    before = loss(model, batch, 0).value
    changed = attack(model, batch, loss, norm=norm, radius=radius, steps=steps, step_size=step_size)
    assert distances(changed, batch)[norm == "l2"].max() <= radius * (1 + 1e-5)
    assert loss(model, changed, 0).value.mean() > before.mean()
    assert all(torch.equal(changed[name], batch[name]) for name in ("present", "label")) and set(
        changed
    ) == set(batch)


def test_searched_by_a_part_of_the_loss():
    """What else the loss holds, here a steeper slope the other way, does not lead the attack astray."""
    model, batch = Linear(), batch_of()
    batch["image"] /= 20

    def whole(model, batch, step):
        part = loss(model, batch, step)
        return Loss(part.value + 10 * (2 * batch["label"] - 1) * part.terms["logit"], part.terms)

    led, astray = (
        adversarial(whole, radius=0.3, steps=20, share=1, search=search)(model, batch, 0)
        for search in (loss, None)
    )
    sign, seen = 2 * batch["label"] - 1, batch["present"].any(1)
    assert (sign * led.terms["adversarial_logit"] < sign * loss(model, batch, 0).terms["logit"])[seen].all()
    assert (sign * astray.terms["adversarial_logit"] > sign * loss(model, batch, 0).terms["logit"])[
        seen
    ].all()


def test_random_start_is_even_in_the_ball():
    """Of a loss without slope nothing but the start is left. In a ball of D dimensions the mean radius is D /
    (D + 1).
    """

    def flat(model, batch, step):
        return Loss((batch["image"] * 0).sum((1, 2, 3)), {})

    batch = batch_of(3000, side=2)
    batch["present"][:] = True
    batch["image"] = torch.randn(3000, 2, 2, 2)
    largest, _ = distances(attack(None, batch, flat, norm="linf", radius=3.0), batch)
    assert largest.mean().item() == pytest.approx(3 * 8 / 9, rel=0.02)  # the largest of 8 even numbers
    _, length = distances(attack(None, batch, flat, norm="l2", radius=3.0), batch)
    assert length.mean().item() == pytest.approx(3 * 8 / 9, rel=0.02) and length.max() <= 3 * (1 + 1e-5)


def test_weights_have_no_slope_and_the_batch_is_as_it_was():
    model, batch = Images(convolutional()), batch_of()
    loss(model, batch, 0)  # the lazy layer takes its shape
    before = {name: t.clone() for name, t in batch.items()}
    attack(model, batch, loss, steps=2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(batch[name], before[name]) for name in batch) and not batch["image"].requires_grad
    with torch.no_grad():  # as evaluation has it
        assert (
            loss(model, attack(model, batch, loss, radius=2.0), 0).value.sum()
            > loss(model, batch, 0).value.sum()
        )
        value = adversarial(loss)(model, batch, 0).value
    assert not value.requires_grad


def test_the_slope_is_that_of_the_mixture():
    """p.grad of the mixture equals (1 - share) clean + share changed, with the changed images held."""
    model, batch = Images(convolutional()), batch_of()
    loss(model, batch, 0)
    for share in (0.0, 0.3, 1.0):
        torch.manual_seed(5)
        changed = attack(model, batch, loss, 0, steps=3)
        expected = torch.autograd.grad(
            ((1 - share) * loss(model, batch, 0).value + share * loss(model, changed, 0).value).sum(),
            list(model.parameters()),
        )
        torch.manual_seed(5)
        value, terms, _ = adversarial(loss, steps=3, share=share)(model, batch, 0)
        found = torch.autograd.grad(value.sum(), list(model.parameters()))
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, expected))
        assert torch.allclose(
            value, torch.lerp(terms["clean_loss"], terms["adversarial_loss"], share), atol=1e-6
        )
        assert set(terms) == {
            "clean_loss",
            "adversarial_loss",
            "logit",
            "adversarial_logit",
        } and value.shape == (6,)


def test_attack_and_loss_see_the_same_random_view():
    """Behind a random symmetry of each call: were another view attacked than judged,
    the logit would not move as far as it can.
    """
    model, batch, radius = Linear(augment=Augment(noise=0.1), dropout=0.5), batch_of(40), 0.2
    terms = adversarial(loss, radius=radius, steps=10)(model, batch, 0).terms
    moved = (terms["adversarial_logit"] - terms["logit"]) * (1 - 2 * batch["label"])
    rms = noise_rms(batch["image"], batch["present"])
    # dropout keeps about half, at double weight
    everything = radius * 2 * (rms * model.weight.abs().sum((1, 2))).sum(1)
    there = batch["present"].any(1)
    assert (moved[there] / everything[there]).mean().item() == pytest.approx(0.5, abs=0.03)
    assert (moved[there] > 0).all()


def test_random_numbers_go_on_as_after_one_call_of_the_loss():
    model, batch = Linear(augment=Augment()), batch_of()
    torch.manual_seed(1)
    attack(model, batch, loss, steps=4)
    state = torch.get_rng_state()
    loss(model, batch, 0)
    after_one = torch.rand(3)
    torch.manual_seed(1)
    value = adversarial(loss, steps=4)(model, batch, 0).value
    assert torch.equal(torch.rand(3), after_one)
    torch.manual_seed(1)
    assert torch.equal(adversarial(loss, steps=4)(model, batch, 0).value, value)
    torch.manual_seed(1)
    attack(model, batch, loss, steps=1)
    assert torch.equal(torch.get_rng_state(), state)  # however many steps


def test_a_loss_from_a_loss_from_a_loss():
    """On a plane: the outer shift is along the plane's normal, the inner one from there on,
    its length by the noise found there.
    """
    model, batch = Linear(), batch_of()
    batch["image"] /= 20
    twice = adversarial(
        adversarial(loss, "linf", 0.2, steps=10, share=1.0), "l2", 0.5, steps=20, step_size=0.5, share=1.0
    )
    value, terms, _ = twice(model, batch, 0)
    sign, weight = 1 - 2 * batch["label"], model.weight.detach()
    normal = noise_rms(batch["image"], batch["present"])[:, :, None, None] * weight
    outer = (
        batch["image"]
        + (0.5 * sign / normal.flatten(1).norm(dim=1).clamp(min=1e-9))[:, None, None, None]
        * normal
        * noise_rms(batch["image"], batch["present"])[:, :, None, None]
    )
    slope = (noise_rms(outer, batch["present"])[:, :, None, None] * weight).abs().sum((1, 2, 3))
    logit = model(outer, batch["present"]) + sign * 0.2 * slope
    assert torch.allclose(value, F.softplus(sign * logit), rtol=1e-3)
    assert (terms["adversarial_loss"] == value).all() and (value >= terms["clean_loss"] - 1e-6).all()


def test_each_image_for_itself():
    model, batch = Images(convolutional()), batch_of()
    batch["present"][:] = True
    batch["image"] = torch.randn(6, 2, 9, 9)
    others = {name: t.clone() for name, t in batch.items()}
    others["image"][1:] = torch.randn(5, 2, 9, 9)
    results = []
    for b in (batch, others):
        torch.manual_seed(3)
        results.append(attack(model, b, loss, norm="l2", radius=3.0, steps=5)["image"][0])
    assert torch.allclose(*results, atol=1e-5)
    plane, order = Linear(), torch.tensor([4, 2, 0, 1, 5, 3])  # on a plane all random starts end at one place
    together = attack(plane, batch, loss, radius=0.1)["image"]
    permuted = attack(plane, {name: t[order] for name, t in batch.items()}, loss, radius=0.1)["image"]
    assert torch.allclose(permuted, together[order], atol=1e-5)


def test_memory_layout_does_not_matter():
    model, batch = Images(convolutional()), batch_of()
    results = []
    for image in (
        batch["image"],
        batch["image"].contiguous(memory_format=torch.channels_last),
        batch["image"].mT.contiguous().mT,
    ):
        torch.manual_seed(3)
        results.append(attack(model, batch | {"image": image}, loss, steps=3)["image"])
    assert torch.allclose(results[0], results[1], atol=1e-5) and torch.allclose(
        results[0], results[2], atol=1e-5
    )


def test_through_preprocessing_augmentation_and_half_precision():
    """Quantiles, medians and sorting have slopes, and a band without noise does no harm."""
    network = nn.Sequential(
        nn.Conv2d(2, 8, 5, 2), nn.GELU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 1)
    )
    model, batch = Preprocessed(network, 15), batch_of(12, side=15)
    batch["image"][0, 0] = 3.0  # not one pixel differs
    for dtype in (torch.float32, torch.bfloat16):
        value, terms, _ = Objective(model, adversarial(loss, radius=1.0), dtype)(batch, 0)
        assert value.dtype == torch.float32 and value.isfinite().all()
        assert terms["adversarial_loss"].mean() > terms["clean_loss"].mean()
        value.sum().backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert isinstance(Objective(model, loss, torch.bfloat16).network, InPrecision)


def test_under_ddp(tmp_path):
    """One rank: the gradient that DDP leaves is that of the bare objective,
    though the loss calls the network seven times.
    """
    import torch.distributed as dist

    torch.manual_seed(0)
    model, batch = Images(convolutional()), batch_of()
    loss(model, batch, 0)
    bare, wrapped = (Objective(m, adversarial(loss), torch.float32) for m in (model, copy.deepcopy(model)))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(wrapped)
        for objective in (bare, ddp):
            for _ in range(2):  # a second step finds the reducer ready
                torch.manual_seed(9)
                objective.zero_grad()
                objective(batch, 0).value.mean().backward()
    finally:
        dist.destroy_process_group()
    for a, b in zip(bare.parameters(), wrapped.parameters()):
        assert torch.allclose(a.grad, b.grad, atol=1e-7) and a.grad.any()


def test_training_makes_robust():
    """Two features tell the classes apart: a strong one, and many weak ones that noise can turn.
    The robust network leans on the strong.
    """
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(400) % 2).float()
    sign = (2 * label - 1)[:, None, None, None]
    image = torch.randn(400, 1, 8, 8, generator=generator) + 0.35 * sign
    image[:, :, 0, 0] += 4 * sign[:, :, 0, 0]
    batch = dict(image=image, present=torch.ones(400, 1, dtype=torch.bool), label=label)
    robust = {}
    for name, objective in (("plain", loss), ("robust", adversarial(loss, radius=0.6, share=1.0))):
        torch.manual_seed(0)
        model = Linear(8, 1)
        with torch.no_grad():
            model.weight.zero_()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for step in range(150):
            optimizer.zero_grad()
            objective(model, batch, step).value.mean().backward()
            optimizer.step()
        logit = loss(model, attack(model, batch, loss, radius=0.6), 0).terms["logit"]
        robust[name] = ((logit > 0) == (label > 0.5)).float().mean().item()
    assert robust["robust"] > robust["plain"] + 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(norm="l1"), "norm 'l1'"),
        (dict(radius=-1), "radius -1"),
        (dict(steps=0), "steps 0"),
        (dict(share=1.5), "share 1.5"),
        (dict(step_size=0), "step_size 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        adversarial(loss, **options)
