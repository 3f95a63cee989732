"""trained.load: arrays in, the probabilities that predict.py writes out."""

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

import predict
from evaluation import calibration
from evaluation.predictions import logit
from trained import load
from utils import checkpoint
from utils.mistake import Mistake


@pytest.fixture(scope="module")
def predicted(trained, challenge, tmp_path_factory):
    """mode -> (the table of objects that predict.py wrote, the pixels of their files [N, 2, 41, 41])."""
    found = {}
    for mode, run_dir in trained.items():
        out = tmp_path_factory.mktemp("door")
        flags = ["--model_path", run_dir / "best.pt", "--data", challenge, "--store_dir", out / "stores"]
        flags += ["--which", "all", "--output_dir", out, "--device", "cpu"]
        if mode == "stack":
            flags += ["--calibration", "temperature"]
        predict.main([*map(str, flags)])
        table = pd.read_csv(out / "objects_all.csv")
        paths = {path.stem: path for path in challenge.rglob("*_?.fits")}
        each = [np.stack([pixels_of(paths[f"{name}_{band}"]) for band in "gr"]) for name in table["object"]]
        found[mode] = table, np.stack(each)
    return found


def pixels_of(path):
    """A cutout as astropy reads it: an image, or the second column of a table."""
    data = fits.getdata(path)
    return data.field(1)[0] if data.dtype.names else data


@pytest.fixture(scope="module")
def stack(trained):
    return load(trained["stack"] / "best.pt", device="cpu")


def test_stacked_bands_agree_with_predict(stack, predicted):
    table, pixels = predicted["stack"]
    assert stack.bands == ("g", "r") and stack.image_size == 41 and "g r" in repr(stack)
    prob = stack.predict(pixels, calibration="temperature")
    assert prob.dtype == np.float32 and prob == pytest.approx(table["prob"].to_numpy(), abs=1e-6)
    as_tensor = stack.predict(torch.from_numpy(pixels.astype(np.float64)), batch_size=7)
    curve = stack.curves["temperature"]
    assert calibration.apply_calibration(curve, logit(as_tensor)) == pytest.approx(prob, abs=1e-6)
    named = {"HSC-R": pixels[:, 1], "g": pixels[:, 0]}  # in any order, by any usual name
    assert stack.predict(named, calibration="temperature") == pytest.approx(prob, abs=1e-6)


def test_single_bands_are_averaged_as_predict_does(trained, predicted):
    table, pixels = predicted["single"]
    network = load(str(trained["single"] / "best.pt"), device="cpu")
    assert network.predict(pixels) == pytest.approx(table["prob"].to_numpy(), abs=1e-6)
    each = np.stack([network.predict(pixels[:, band]) for band in range(2)], 1)
    assert each.mean(1) == pytest.approx(table["prob"].to_numpy(), abs=1e-6)


def test_missing_bands(stack, predicted, capsys):
    pixels = predicted["stack"][1][:6]
    without = np.array([True, False])
    expected = stack.predict(pixels, present=without)
    assert np.abs(expected - stack.predict(pixels)).max() > 1e-6
    assert stack.predict(dict(g=pixels[:, 0])) == pytest.approx(expected)
    assert not capsys.readouterr().err
    # a band that shows no sky is missing, as predict.py has it; without any band there is no answer
    spoiled = pixels.astype(np.float32)
    spoiled[:, 1] = np.nan
    spoiled[2, 1, 1:] = spoiled[2, 1, 0] = -99
    spoiled[3] = 0
    prob = stack.predict(np.ma.masked_invalid(spoiled), batch_size=4)
    assert np.isnan(prob[3]) and np.delete(prob, 3) == pytest.approx(np.delete(expected, 3))
    said = capsys.readouterr().err
    assert "7 of 12 images of a band show no sky" in said and "image 0, channel 1: 1681 of 1681" in said
    assert "1 have no band left" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "images, options, message",
    [
        (np.ones((2, 3, 41, 41)), {}, r"shape \[2, 3, 41, 41\]: expected \[N, 2, 41, 41\].*bands g r"),
        (np.ones((2, 2, 40, 41)), {}, r"expected \[N, 2, 41, 41\]"),
        (np.ones((2, 41, 41)), {}, r"expected \[N, 2, 41, 41\]"),
        ({"i": np.ones((2, 41, 41))}, {}, "images of the bands i .*expected some of g r"),
        ({"g": np.ones((2, 41, 41)), "r": np.ones((3, 41, 41))}, {}, "of one shape"),
        ({}, {}, "images of the bands none"),
        (np.ones((2, 2, 41, 41)), dict(present=np.ones(3, bool)), r"present of bool and shape \[3\]"),
        (np.ones((2, 2, 41, 41)), dict(present=np.ones(2)), "present of float64"),
        (np.ones((2, 2, 41, 41)), dict(calibration="platt"), "calibration 'platt': expected none"),
        (np.ones((2, 2, 41, 41)), dict(domain="des"), "domain 'des': expected one of slsim, hsc"),
        (np.ones((2, 2, 41, 41)), dict(metadata=pd.DataFrame()), "trained without"),
    ],
)
def test_what_is_no_input_of_the_network(stack, images, options, message):
    with pytest.raises(Mistake, match=message):
        stack.predict(images, **options)


def test_pixels_of_another_unit_are_refused(trained, predicted, tmp_path):
    """A network that sees pixels as they are."""
    tree = checkpoint.load(trained["stack"] / "best.pt")
    tree["record"]["options"]["apply_normalization"] = False
    pixels = predicted["stack"][1][:8]
    tree["record"]["data"]["spread"] = float(np.median(pixels.reshape(16, -1).std(1)))
    checkpoint.save(tmp_path / "best.pt", tree)
    network = load(tmp_path / "best.pt", device="cpu")
    assert np.isfinite(network.predict(pixels)).all()
    with pytest.raises(Mistake, match="these images typically spread by"):
        network.predict(pixels * 1e6)


def test_only_a_checkpoint_is_opened(tmp_path):
    with pytest.raises(Mistake, match="there is no file"):
        load(tmp_path / "none.pt")
