"""Units of the data: a factor on the pixels changes no score, and the pixel scale is the data's own."""

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

import predict
import train
from data.cutouts import buckets, quality, store
from models.layers.degrade import Degrade
from models.layers.lens_fit import LensFit, soft_geometry
from models.layers.metadata import Standardise, deviation_of
from models.layers.peaks import find_peaks
from models.layers.preprocess import between, normalise, power_of_two
from models.layers.quantity_head import QuantityHead
from physics.lens_parameters import GEOMETRY
from physics.noise import noise_rms
from tasks.lens import units
from tasks.lens.config import Config
from tasks.lens.network import build_network
from utils.checkpoint import load
from utils.mistake import Mistake

FACTORS = (1e-29, 1e-23, 1e-18, 1e-9, 1e-4, 1e-2, 1e3, 1e7, 1e11)


def cutouts(count=6, bands=2, side=41, seed=0):
    """Noise of 0.05, galaxies of many sizes, and something beside them, [count, bands, side, side]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side // 2
    size, flux = np.exp(rng.uniform(-0.5, 2.5, (2, count, 1, 1, 1)))
    place = rng.uniform(-15, 15, (2, count, 1, 1, 1))
    galaxy = flux * np.exp(-np.hypot(x, y) / size)
    other = np.exp(-((np.hypot(x - place[0], y - place[1])) ** 2) / 8) * rng.uniform(
        0, 9, (count, bands, 1, 1)
    )
    images = rng.normal(0, 0.05, (count, bands, side, side)) + galaxy + other
    return torch.from_numpy(images.astype(np.float32))


def network(seed=0, lively=1.0, **options):
    torch.manual_seed(seed)
    net = build_network(Config(data="unused", band_mode="stack", augment=False, **options), 2).eval()
    for parameter in net.parameters():  # heads of zeros would say nothing
        if parameter.ndim == 1 or not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim >= 2:
            parameter.data *= lively
    return net


SMALL = {
    "convnextv2": dict(model="convnextv2", model_size="atto"),
    "enhanced_vit": dict(model="enhanced_vit", model_size="tiny"),
    "film_conditioned": dict(model="film_conditioned", model_size="18", model_kwargs=["width=0.125"]),
    "robust_resnet": dict(model="robust_resnet", model_size="18", model_kwargs=["width=0.125"]),
    "pinn_lens": dict(model="pinn_lens", clip_q=-1.0),
    "mad": dict(model="convnextv2", model_size="atto", use_mad=True, low_clip_q=0.01),
    "smooth": dict(model="convnextv2", model_size="atto", smoothing_mode="gaussian"),
}


@pytest.mark.parametrize("name", [*SMALL, "gat_lens"])
@torch.no_grad()
def test_scores_are_the_same_in_every_unit(name):
    if name == "gat_lens":
        pytest.importorskip("torch_geometric")
    options = SMALL.get(name, dict(model=name, model_kwargs=["layers=1"]))
    lively = 6.0 if options["model"] in ("convnextv2", "enhanced_vit") else 1.0
    net = network(apply_normalization=True, lively=lively, **options)
    x, domain = cutouts(), torch.zeros(6, dtype=torch.int64)
    present = torch.ones(6, 2, dtype=torch.bool)
    present[2, 1] = False

    def score(images):
        return net(images, present, domain)["logit"].sigmoid()

    expected = score(x)
    assert expected.std() > 1e-4  # they say something
    for factor in FACTORS:
        assert (score(x * factor) - expected).abs().max() < 1e-4, factor
    mixed = torch.tensor([1e-29, 1e11])[None, :, None, None]  # each band in a unit of its own
    assert (score(x * mixed) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_a_network_that_sees_noise_needs_no_normalisation():
    net = network(model="pinn_lens")
    x, present, domain = cutouts(), torch.ones(6, 2, dtype=torch.bool), torch.zeros(6, dtype=torch.int64)
    expected = net(x, present, domain)
    for factor in FACTORS:
        found = net(x * factor, present, domain)
        assert (found["logit"].sigmoid() - expected["logit"].sigmoid()).abs().max() < 1e-4
        for name in ("light", "arcs", "flux", "error", "pixel_error"):
            assert torch.allclose(found[name] / factor, expected[name], rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize("options", [{}, dict(use_mad=True), dict(clip_q=-1.0), dict(low_clip_q=0.05)])
def test_ordinary_pixels_keep_their_bits(options):
    """The recipe as it was written, in the unit of the pixels."""
    x = cutouts() + 0.7
    known = dict(clip_q=0.997, low_clip_q=-1.0, use_mad=False) | options

    def lower(values):
        return values.sort(-1).values[..., (values.shape[-1] - 1) // 2, None]

    def quantile(values, q):
        position = q * (values.shape[-1] - 1)
        ordered = values.sort(-1).values
        return between(ordered, position)

    pixels = x.flatten(2)
    count = (pixels <= quantile(pixels, 0.2)).sum(-1, keepdim=True)
    background = pixels.sort(-1).values.gather(-1, (count - 1) // 2)
    low, high = (
        quantile(pixels, known[name]) - background if known[name] >= 0 else None
        for name in ("low_clip_q", "clip_q")
    )
    pixels = pixels - background
    pixels = pixels.clamp(low, high) if low is not None or high is not None else pixels
    if known["use_mad"]:
        pixels = pixels - lower(pixels)
        expected = pixels / (1.4826 * lower(pixels.abs()) + 1e-6)
    else:
        pixels = pixels - pixels.mean(-1, keepdim=True)
        expected = pixels / (pixels.square().mean(-1, keepdim=True).sqrt() + 1e-6)
    assert torch.equal(normalise(x, **known), expected.view_as(x))


def test_a_flat_image_stays_flat_in_every_unit():
    rounding = 1 + 1e-7 * torch.randn(1, 1, 41, 41)
    for level in (1e-29, 1e-9, 7.0):
        assert normalise(level * rounding, 0.997, -1.0, False).abs().max() < 3
        assert (normalise(torch.full((1, 1, 41, 41), level), 0.997, -1.0, False) == 0).all()


def test_powers_of_two():
    x = torch.tensor([0.0, 1e-40, 1e-29, 0.75, 1.0, 3.9, 1e11, 3e38, float("inf"), float("nan")])
    found = power_of_two(x)
    assert torch.equal(found[[0, 1, 3, 4, 5, 8, 9]], torch.tensor([1.0, 1, 0.5, 1, 2, 1, 1]))
    assert (found[2] <= x[2] < 2 * found[2]) and found[7] == 2.0**126 and torch.isfinite(1 / found).all()


@torch.no_grad()
def test_what_looks_at_pixels_knows_no_unit():
    x = cutouts()
    peaks = find_peaks(x)
    head = QuantityHead(4, GEOMETRY)
    geometry = soft_geometry(head.centre.expand(len(x), -1), head)
    fit = LensFit().eval()
    expected = fit(x, noise_rms(x), geometry)
    measures = quality.measure_quality(x[:, 0].numpy())
    for factor in FACTORS:
        y = x * factor
        assert torch.allclose(noise_rms(y) / factor, noise_rms(x), rtol=1e-5)
        assert torch.allclose(find_peaks(y).position, peaks.position, atol=1e-3)
        found = fit(y, noise_rms(y), geometry)
        for name in ("chi2", "ring", "ring_model"):
            assert torch.allclose(found[name], expected[name], rtol=1e-3), name
        torch.manual_seed(3)
        worse = Degrade(1.0, 2.0, 1.0)(y, torch.ones(6, 2, dtype=torch.bool))
        torch.manual_seed(3)
        of_one = Degrade(1.0, 2.0, 1.0)(x, torch.ones(6, 2, dtype=torch.bool))
        assert torch.allclose(worse / factor, of_one, atol=1e-5)
        for name, values in quality.measure_quality(y[:, 0].numpy()).items():
            unit = factor if name.startswith("background") else 1
            np.testing.assert_allclose(values / unit, measures[name], rtol=2e-2, atol=1e-3, err_msg=name)


def test_metadata_in_any_unit():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (50, 1)).astype(np.float32)
    there = np.ones((50, 1), bool)
    found = []
    for factor in (1.0, 1e-17, 1e17):
        layer = Standardise(1)
        layer.fit(values * np.float32(factor), there)
        found.append(layer(torch.from_numpy(values * np.float32(factor)), torch.from_numpy(there)))
    assert torch.allclose(found[0], found[1], atol=1e-5) and torch.allclose(found[0], found[2], atol=1e-5)
    assert deviation_of(np.full(9, 0.5)) == 1e-6 and deviation_of(np.array([3.0])) == 1.0


# ---- networks that see pixels as they are


def test_pixels_that_cannot_be_learnt_from_are_refused_with_their_values():
    config = Config(data="unused")
    with pytest.raises(Mistake, match=r"spread by 3e-29.*convnextv2 sees them as they are.*--apply_norm"):
        units.refuse_unit(config, 3e-29)
    units.refuse_unit(config, 0.05)
    units.refuse_unit(Config(data="unused", apply_normalization=True), 3e-29)
    units.refuse_unit(Config(data="unused", model="pinn_lens"), 3e-29)
    guided = Config(data="unused", apply_normalization=True, smoothing_mode="guided")
    with pytest.raises(Mistake, match="--guided_eps 0.01 is in their unit"):
        units.refuse_unit(guided, 3e-29)
    assert units.compare_unit(config, 1.0, 0.2, "D") == []
    (line,) = units.compare_unit(config, 1.0, 100.0, "D")
    assert "pixels of D typically spread by 100, in training by 1" in line
    with pytest.raises(Mistake, match="typically spread by 1e-09, in training by 1"):
        units.compare_unit(config, 1.0, 1e-9, "D")


# ---- pixel scales


def test_the_pixel_scale_is_that_of_the_data_or_refused():
    pinn = Config(data="unused", model="pinn_lens")
    scale, lines = units.pixel_scale_of(pinn, {0.26: 90}, "S")
    assert scale == 0.26 and lines == ["pixel scale: 0.26 arcsec, as S says"]
    scale, (line,) = units.pixel_scale_of(pinn, {}, "S")
    assert scale == 0.2 and "0.2 arcsec is assumed" in line
    scale, lines = units.pixel_scale_of(pinn, {0.26: 90, 0.2: 8}, "S")
    assert scale == 0.26 and "several scales: 0.26 arcsec (90), 0.2 arcsec (8)" in lines[0]
    given = Config(data="unused", model="pinn_lens", pixel_scale=0.2)
    with pytest.raises(Mistake, match=r"--pixel_scale 0.2: S says 0.26 arcsec \(90\)"):
        units.pixel_scale_of(given, {0.26: 90}, "S")
    assert units.pixel_scale_of(given, {0.2004: 90}, "S") == (0.2, [])
    # who measures no angle is not asked
    assert units.pixel_scale_of(Config(data="unused", pixel_scale=0.3), {0.26: 9}, "S")[1] == []
    with pytest.raises(Mistake, match=r"S has pixels of 0.26 arcsec \(9\), but.*was trained with 0.2"):
        units.compare_pixel_scale(pinn, 0.2, {0.26: 9}, "S")
    (line,) = units.compare_pixel_scale(pinn, 0.2, {0.2: 9, 0.26: 1}, "S")
    assert "also has 0.26 arcsec (1)" in line
    assert units.compare_pixel_scale(Config(data="unused"), 0.2, {0.26: 9}, "S") == []


def write_set(folder, factor=1.0, scale=0.26 / 3600, count=24):
    """A set of two buckets with a scale in its headers."""
    images = cutouts(2 * count, 1, seed=1)[:, 0].numpy() * np.float32(factor)
    for number, image in enumerate(images):
        bucket = ("hsc_lenses", "hsc_nonlenses")[number % 2]
        hdu = fits.PrimaryHDU(image)
        if scale:
            hdu.header["PIXSCALE"] = scale * 3600
        (folder / bucket).mkdir(parents=True, exist_ok=True)
        hdu.writeto(folder / bucket / f"o{number}_g.fits")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of pinn_lens on pixels of 0.26 arcsec: (its folder, the data)."""
    root = tmp_path_factory.mktemp("scales")
    data = write_set(root / "D")
    train.main(
        f"--data {data} --store_dir {root / 'stores'} --save_dir {root / 'run'} --model pinn_lens "
        "--apply_normalization --clip_q -1 --epochs 1 --batch_size 16 --seed 1 --device cpu "
        "--precision fp32".split()
    )
    return root / "run", data


def test_the_scale_of_headers_is_trained_with_and_predicted_with(trained, tmp_path, capsys):
    run, data = trained
    saved = load(run / "best.pt")
    assert saved["record"]["data"]["pixel_scale"] == 0.26
    assert predict_from(run, data, tmp_path) is None
    other = write_set(tmp_path / "other", scale=0.2 / 3600, count=4)
    with pytest.raises(Mistake, match="pixels of 0.2 arcsec .8.*was trained with 0.26 arcsec"):
        predict_from(run, other, tmp_path)


def predict_from(run, data, tmp_path):
    return predict.main(
        f"--model_path {run / 'best.pt'} --data {data} --store_dir {tmp_path / 'stores'} --which all "
        f"--device cpu --output_dir {tmp_path / 'pred'}".split()
    )


def test_units_of_pixels_through_the_commands(trained, tmp_path):
    """pred_all.csv of the same images in another unit."""
    run, data = trained
    predict_from(run, data, tmp_path / "a")
    expected = np.load(tmp_path / "a/pred/probs_all.npy")
    predict_from(run, write_set(tmp_path / "jansky", factor=1e-23), tmp_path / "b")
    found = np.load(tmp_path / "b/pred/probs_all.npy")
    assert np.isfinite(expected).all() and np.abs(found - expected).max() < 1e-4


def test_scales_of_a_catalogue_come_from_its_metadata(tmp_path):
    data = write_set(tmp_path / "D", count=3)
    packed = store.pack_cutouts(
        buckets.inventory_of_buckets(buckets.find_buckets(data)), tmp_path / "out", say=lambda line: None
    )
    assert packed.pixel_scales == {0.26: 6}
    assert store.open_store(tmp_path / "out").pixel_scales == {0.26: 6}


def test_what_shows_no_sky_has_no_probability(trained, tmp_path):
    run, _ = trained
    folder = tmp_path / "blind"
    folder.mkdir()
    sky = cutouts(1, 1)[0, 0].numpy()
    edge = sky.copy()
    edge[:25] = 0
    for name, image in dict(sky=sky, zero=0 * sky, fill=0 * sky + np.float32(1e20), edge=edge).items():
        fits.PrimaryHDU(image).writeto(folder / f"{name}_g.fits")
    predict.main(
        f"--model_path {run / 'best.pt'} --images {folder} --store_dir {tmp_path / 'stores'} --which blind "
        f"--device cpu --output_dir {tmp_path / 'pred'}".split()
    )
    rows = pd.read_csv(tmp_path / "pred/pred_blind.csv")
    assert rows["path"].str.contains("sky_g").tolist() == rows["prob"].notna().tolist()
    reasons = pd.read_csv(tmp_path / "pred/quarantine_blind.csv")["reason"].tolist()
    assert [reason[:40] for reason in reasons] == [
        "shows no sky: 1025 of 1681 pixels are 0,",
        "shows no sky: all 1681 pixels are 1e+20",
        "shows no sky: all 1681 pixels are 0",
    ]
