"""Why a lens: the attributions add up, are those of a known answer,
and what is written names what is drawn.
"""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import predict
import train
from models.layers.lens_fit import LensFit
from models.layers.preprocess import Preprocess
from models.lens_network import LensNetwork
from models.pinn_lens import PinnLens
from models.resnet import ResNet
from physics.lens_parameters import GEOMETRY, QUANTITIES
from physics.noise import noise_rms
from tasks.lens import explain, explain_plots
from tasks.lens.explain import attribution, empty_skies
from tasks.lens.explain_plots import Candidate, LensModel
from utils.mistake import Mistake

pytest.importorskip("captum")


class Linear(nn.Module):
    """A weighted sum of the pixels, and of metadata."""

    fields = ("redshift",)

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def features(self, x, values, known):
        return (self.weight * x).flatten(1).sum(1, keepdim=True) + 3 * values

    def classify(self, features):
        return features


def example(channels=2, missing=False, size=41):
    """A galaxy with an arc above noise of a different rms in each band."""
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    radius = torch.hypot(x, y)
    brightness = 30 * torch.exp(-radius / 3) + 6 * torch.exp(-(((radius - 6) / 1.5) ** 2)) * (x > 0)
    image = (brightness + torch.randn(1, channels, size, size)) * (1 + torch.arange(channels))[:, None, None]
    present = torch.ones(1, channels, dtype=torch.bool)
    if missing:
        image[:, 1], present[:, 1] = 0, False
    return dict(image=image, present=present, label=torch.ones(1), domain=torch.zeros(1, dtype=torch.int64))


def random_network(name, channels):
    torch.manual_seed(1)
    body = PinnLens(in_chans=channels) if name == "pinn_lens" else ResNet("18", channels, 1, 0.0, 0.25)
    network = LensNetwork(Preprocess(normalise=name == "normalised"), None, body).eval()
    with torch.no_grad():
        # so that the logit says something
        (body.classify if name == "pinn_lens" else body.head).weight.mul_(20)
    return network


def test_of_a_linear_network_it_is_weight_times_pixel():
    batch = example() | dict(metadata=torch.tensor([[0.7]]), metadata_mask=torch.ones(1, 1, dtype=torch.bool))
    network = LensNetwork(Preprocess(normalise=False), None, Linear(2, 41, 41)).eval()
    zero = torch.zeros(1, 2, 41, 41)
    found = attribution(network, batch, zero, 7)
    torch.testing.assert_close(
        found.pixels, network.network.weight.detach() * batch["image"][0], rtol=1e-4, atol=1e-5
    )
    # the metadata are those of the example
    assert found.delta < 1e-3 and found.logit_sky == pytest.approx(2.1)
    skies = empty_skies(batch["image"], batch["present"], 3)
    found = attribution(network, batch, skies, 128)
    torch.testing.assert_close(
        found.pixels,
        network.network.weight.detach() * (batch["image"][0] - skies.mean(0)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name,tolerance", [("plain", 0.003), ("normalised", 0.003), ("pinn_lens", 0.04)])
def test_attributions_add_up_to_the_difference_of_logits(name, tolerance, monkeypatch):
    """Completeness (proposition 1 of the source), also of networks that see an image in units of its own
    scale or noise.

    The error of 50 steps is given as a share of what all pixels add; a network that measures the noise is not
    smooth. More steps leave less.
    """
    batch = example(3)
    network, skies = random_network(name, 3), empty_skies(batch["image"], batch["present"], 2)
    found = attribution(network, batch, skies, 50)
    assert found.delta < tolerance * found.pixels.abs().sum()
    assert found.delta == pytest.approx(
        abs(found.pixels.sum().item() - found.logit + found.logit_sky), abs=1e-3
    )
    again = attribution(network, batch, skies, 20)  # in other pieces: the same
    torch.testing.assert_close(
        again.pixels, found.pixels, rtol=1e-3, atol=1e-3 * found.pixels.abs().max().item()
    )
    assert torch.equal(attribution(network, batch, skies, 50).pixels, found.pixels)
    assert all(parameter.grad is None for parameter in network.parameters())
    monkeypatch.setattr(explain, "STEPS", 200)
    assert attribution(network, batch, skies, 50).delta < tolerance / 2 * found.pixels.abs().sum()


def test_from_a_sky_without_noise_nothing_adds_up_for_a_network_that_sees_units_of_the_noise():
    """Why the skies are noisy: f(a x) = f(x) for a > 0, so that no step of the integral sees where the logit
    jumps.
    """
    batch = example(3)
    found = attribution(random_network("pinn_lens", 3), batch, torch.zeros_like(batch["image"]), 50)
    assert found.pixels.sum().abs() < 1e-2 and found.delta > 0.9 * abs(found.logit - found.logit_sky)


def test_skies_are_as_noisy_as_the_image_and_as_bright_as_its_edge():
    batch = example(2, missing=True)
    batch["image"][:, 0] += 100
    skies = empty_skies(batch["image"], batch["present"], 200)
    assert (skies[:, 1] == 0).all() and skies[:, 0].mean().item() == pytest.approx(
        batch["image"][0, 0, 0].median().item(), abs=0.5
    )
    assert skies[:, 0].std().item() == pytest.approx(noise_rms(batch["image"])[0, 0].item(), rel=0.01)
    assert torch.equal(skies, empty_skies(batch["image"], batch["present"], 200))
    found = attribution(random_network("plain", 2), batch, skies[:2], 50)
    assert (found.pixels[1] == 0).all()  # nothing is said of a band that is not there


def test_the_fit_says_where_the_light_of_its_pixels_comes_from():
    """A round lens off the middle: beta = theta (1 - R / |theta|), from the lens;
    in a field that is wider than high.
    """
    spread = {name: torch.zeros(1, len(QUANTITIES[name].columns)) for name in GEOMETRY}
    place, radius = torch.tensor([[0.3, -0.2]]), 1.1
    said = LensFit(0.2).eval()(
        torch.randn(1, 2, 33, 41),
        torch.ones(1, 2),
        spread | dict(x_l=place, Rein=torch.full((1, 1), radius).log()),
    )
    y, x = torch.meshgrid(*[(torch.arange(side) - (side - 1) / 2) * 0.2 for side in (33, 41)], indexing="ij")
    theta = torch.stack([x - 0.3, y + 0.2])[None]
    torch.testing.assert_close(said["angles"], theta, rtol=0, atol=1e-5)
    distance = theta.norm(dim=1, keepdim=True)
    away = (distance > 0.4).expand_as(theta)  # in the middle a pixel's light is from all sides
    torch.testing.assert_close(said["rays"][away], (theta * (1 - radius / distance))[away], rtol=0, atol=0.02)
    assert said["einstein_radius"].item() == pytest.approx(radius)


def candidate(model):
    image = np.random.default_rng(0).normal(size=(3, 33, 41))
    return Candidate(
        "a_very_long_name_of_an_object_0001", 0.5, image, np.zeros((33, 41)), 1.0, -1.0, 0.01, 0.2, model
    )


def test_a_row_each_and_the_circle_is_the_einstein_radius():
    numbers = dict(
        Rein=1.2345,
        Rein_err=0.0321,
        zlens=0.5,
        zlens_err=0.2,
        plausibility=0.25,
        plausibility_fit=0.5,
        plausibility_counter_images=0.5,
    )
    plane = np.zeros((64, 64))  # the fit saw a padded frame
    figure = explain_plots.mosaic(
        [candidate(LensModel(plane, plane, plane, 0.3, -0.1, 1.2345, numbers)), candidate(None)]
    )
    assert len(figure.axes) == 12 and explain_plots.lines(numbers)[0] == 'Einstein radius 1.234 ± 0.032"'
    for ax in figure.axes[2:5]:
        (circle,) = ax.patches
        assert circle.center == (0.3, -0.1) and circle.radius == 1.2345
        assert ax.get_xlim() == pytest.approx((-4.1, 4.1)) and ax.get_ylim() == pytest.approx((-3.3, 3.3))
        assert ax.images[0].get_extent() == pytest.approx([-6.4, 6.4, -6.4, 6.4])
    assert len(explain_plots.mosaic([candidate(None)]).axes) == 2


def run(challenge, trained, out, *options):
    predict.main(
        [
            "--model_path",
            str(trained / "best.pt"),
            "--store_dir",
            str(out.parent / "stores"),
            "--device",
            "cpu",
            "--output_dir",
            str(out),
            "--data",
            str(challenge),
            "--which",
            "all",
            *options,
        ]
    )
    return pd.read_csv(out / "explain_all.csv"), pd.read_csv(out / "pred_all.csv")


@pytest.mark.parametrize("mode", ["single", "stack"])
def test_the_most_probable_are_explained(trained, challenge, tmp_path, mode):
    table, predicted = run(challenge, trained[mode], tmp_path / "out", "--explain", "3", "--batch_size", "16")
    assert (
        table.columns.tolist() == ["path", "object", "prob", "logit", "logit_sky", "attributed", "delta"]
        and len(table) == 3
    )
    name = predicted["path"].str.slice(stop=-7) if mode == "stack" else predicted["path"]
    best = predicted.groupby(name)["prob"].first().nlargest(3)
    np.testing.assert_allclose(table["prob"], best, rtol=1e-6)
    assert set(table["path"]) <= set(predicted["path"])
    np.testing.assert_allclose(1 / (1 + np.exp(-table["logit"])), table["prob"], atol=1e-5)
    np.testing.assert_allclose(
        (table["attributed"] - table["logit"] + table["logit_sky"]).abs(), table["delta"], atol=1e-6
    )
    with Image.open(tmp_path / "out" / "explain_all.png") as image:
        assert image.size[1] > image.size[0] > 400
    assert (tmp_path / "out" / "explain_all.pdf").read_bytes().startswith(b"%PDF")
    if mode == "single":
        again, _ = run(challenge, trained[mode], tmp_path / "again", "--explain", "3", "--batch_size", "16")
        assert again.equals(table)
        assert (tmp_path / "again" / "explain_all.png").read_bytes() == (
            tmp_path / "out" / "explain_all.png"
        ).read_bytes()


@pytest.fixture(scope="module")
def physical(challenge, tmp_path_factory):
    """A network that infers lenses, and not the same ones in an image and in its mirror image;
    trained for one step or two.
    """
    folder = tmp_path_factory.mktemp("physical")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stop.signal.signal", lambda *_: None)
        train.main(
            [
                "--data",
                str(challenge),
                "--store_dir",
                str(folder / "stores"),
                "--save_dir",
                str(folder / "run"),
                "--band_mode",
                "stack",
                "--model",
                "robust_resnet",
                "--model_size",
                "18",
                "--model_kwargs",
                "width=0.125",
                "--use_physics",
                "--regression",
                "zlens",
                "--epochs",
                "1",
                "--batch_size",
                "32",
                "--device",
                "cpu",
            ]
        )
    return folder / "run"


def test_an_inferred_lens_is_drawn_and_judged(physical, challenge, tmp_path):
    """With --tta the plausibility is that of the image as it is,
    whatever the means over the symmetries are.
    """
    parts, tables = ["plausibility_fit", "plausibility_ring", "plausibility_counter_images"], []
    for name, options in (("plain", []), ("tta", ["--tta"])):
        table, predicted = run(challenge, physical, tmp_path / name, "--explain", "2", *options)
        quantities = pd.read_csv(tmp_path / name / "parameters_all.csv")
        assert quantities.columns.tolist()[-4:] == ["plausibility", *parts] and len(quantities) == len(
            predicted
        )
        assert ((quantities[["plausibility", *parts]] > 0) & (quantities[["plausibility", *parts]] <= 1)).all(
            axis=None
        )
        np.testing.assert_allclose(quantities["plausibility"], quantities[parts].prod(axis=1), rtol=1e-4)
        assert quantities["plausibility"].nunique() == 64  # one an object
        mine = quantities.set_index("path").loc[table["path"]].reset_index()
        pd.testing.assert_frame_equal(table[mine.columns], mine)
        with Image.open(tmp_path / name / "explain_all.png") as image:
            assert image.size[0] > 1500
        tables.append(quantities)
    plain, tta = tables
    pd.testing.assert_series_equal(plain["plausibility"], tta["plausibility"])
    assert not np.allclose(plain["Rein"], tta["Rein"], rtol=1e-6)


def test_captum_is_missed_before_the_prediction_begins(trained, challenge, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setattr(explain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        Mistake,
        match="captum is not installed, and --explain needs it: pip install -r requirements-explain.txt",
    ):
        run(challenge, trained["single"], tmp_path / "out", "--explain", "3")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", ["-1", "101"])
def test_a_count_that_no_picture_can_show(trained, challenge, tmp_path, count):
    with pytest.raises(Mistake, match=f"--explain: got {count}, expected 0 to 100"):
        run(challenge, trained["single"], tmp_path / "out", "--explain", count)
