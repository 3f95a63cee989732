"""A network that goes on with other bands than it was trained on: weights follow the bands' names."""

import pytest
import torch

from model import MODELS
from models.pretrained import load_pretrained
from tasks import lens
from utils import checkpoint, config
from utils.mistake import Mistake

LENSES = [name for name, spec in MODELS.items() if spec.task == "lens"]
BANDS = ("g", "r", "i", "z", "y")


def network_of(name: str, bands, seed: int = 0):
    options = ["--model", name, "--band_mode", "stack", "--apply_normalization", *MODELS[name].small]
    (task,) = config.read_options(options, lens.Config)
    torch.manual_seed(seed)
    try:
        made = lens.build_network(task, len(bands)).eval()
    except Mistake as error:
        pytest.skip(str(error))
    with torch.no_grad():
        for weight in made.parameters():  # what begins at zero would hide what is wrong
            weight.add_(0.02 * torch.randn_like(weight))
    return made


def body(made):
    return getattr(made.network, "body", made.network)


def trained_on(path, name, made, bands):
    options = config.flat_options(lens.Config(model=name, band_mode="stack"))
    record = dict(options=dict(task="lens", **options), data=dict(bands=list(bands)))
    checkpoint.save(path, dict(record=record, model=made.state_dict()))
    return path


def sky(channels: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    blobs = torch.exp(-((x - 6) ** 2 + (y + 3) ** 2) / 8) + 2 * torch.exp(-(x**2 + y**2) / 20)
    generator = torch.Generator().manual_seed(3)
    colour = 1 + torch.arange(float(channels))[:, None, None]
    return colour * blobs + 0.1 * torch.randn(3, channels, 41, 41, generator=generator)


def logit(made, image, missing: int):
    """[3]; the second example lacks a band."""
    there = torch.ones(image.shape[:2], dtype=torch.bool)
    there[1, missing] = False
    with torch.no_grad():
        return made(image, there, torch.zeros(len(image), dtype=torch.int64))["logit"]


@pytest.mark.parametrize("name", LENSES)
def test_another_order_of_the_bands_is_the_same_network(name, tmp_path):
    order = [4, 3, 1, 2, 0]
    after = [BANDS[place] for place in order]
    before = network_of(name, BANDS)
    made = network_of(name, after, seed=1)
    said = str(load_pretrained(body(made), trained_on(tmp_path / "a.pt", name, before, BANDS), after))
    assert "weights follow the bands y z r i g" in said and "new bands" not in said
    image = sky(5)
    expected = logit(before, image, missing=0)
    torch.testing.assert_close(logit(made, image[:, order], missing=4), expected, rtol=1e-6, atol=1e-6)
    assert (logit(made, image, missing=0) - expected).abs().max() > 1e-3  # it sees which band is which


@pytest.mark.parametrize("name", LENSES)
def test_bands_that_come_and_go(name, tmp_path):
    """With a band more, and then without it in another order, it is the same network."""
    before = network_of(name, BANDS)
    with_vis = ["VIS", *BANDS]
    more = network_of(name, with_vis, seed=1)
    said = str(load_pretrained(body(more), trained_on(tmp_path / "a.pt", name, before, BANDS), with_vis))
    assert "follow the bands g r i z y; new bands VIS begin with the mean of g r i z y" in said
    again = network_of(name, BANDS[::-1], seed=2)
    said = str(load_pretrained(body(again), trained_on(tmp_path / "b.pt", name, more, with_vis), BANDS[::-1]))
    assert "bands VIS are dropped" in said
    image = sky(5)
    found = logit(again, image.flip(1), missing=4)
    torch.testing.assert_close(found, logit(before, image, missing=0), rtol=1e-6, atol=1e-6)


def test_a_new_band_begins_with_the_mean(tmp_path):
    before = network_of("convnextv2", BANDS)
    made = network_of("convnextv2", ["J", "r", "H"], seed=1)
    load_pretrained(body(made), trained_on(tmp_path / "a.pt", "convnextv2", before, BANDS), ["J", "r", "H"])
    theirs, ours = (each.network.stem[0].weight for each in (before, made))
    for channel, expected in enumerate((theirs.mean(1), theirs[:, 1], theirs.mean(1))):
        torch.testing.assert_close(ours[:, channel], expected, rtol=1e-6, atol=1e-7)


def test_what_names_no_bands_is_folded_as_ever(tmp_path):
    before = network_of("convnextv2", ["g", "r", "i"])
    torch.save(before.network.state_dict(), tmp_path / "w.pt")  # timm's or Zoobot's names
    made = network_of("convnextv2", BANDS, seed=1)
    said = str(load_pretrained(body(made), tmp_path / "w.pt", BANDS))
    assert "first layer folded from 3 to 5 channels" in said and "follow" not in said
