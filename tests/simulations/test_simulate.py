"""simulate.py: the challenge's files as astropy reads them, the same bytes however they are made,
honest physics.
"""

import csv
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

import simulate
from physics import cosmology
from simulations.challenge import files, images as challenge_images, lenses, sky
from utils.mistake import Mistake
from utils.seeding import seed_from


def run(out, *flags):
    simulate.main(["challenge", "--out", str(out), "--workers", "1", *map(str, flags)])
    return Path(out)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run(tmp_path_factory.mktemp("challenge"), "--objects", 3, "--blind", 8, "--seed", 11)


def objects(domain: str, label: int, count: int = 64):
    generators = [np.random.default_rng(seed_from(5, domain, label, k)) for k in range(count)]
    return challenge_images.simulate_objects(generators, [domain] * count, [label] * count)


def test_layout(small):
    names = sorted(path.name for path in small.iterdir())
    assert names == [
        "hsc_lenses",
        "hsc_nonlenses",
        "objects.csv",
        "simulation.json",
        "slsim_lenses",
        "slsim_nonlenses",
        "test_dataset",
        "test_truth.csv",
    ]
    for folder, stem in (
        ("slsim_lenses", "D1_L"),
        ("slsim_nonlenses", "D1_N"),
        ("hsc_lenses", "D2_L"),
        ("hsc_nonlenses", "D2_N"),
    ):
        expected = {f"{stem}_{k:08d}_{band}.fits" for k in range(3) for band in "grizy"} | {"parameters.fits"}
        assert {path.name for path in (small / folder).iterdir()} == expected
    assert len(list((small / "test_dataset").iterdir())) == 8 * 5


@pytest.mark.parametrize("folder, column", [("slsim_lenses", "Lens ID"), ("hsc_nonlenses", "Object ID")])
def test_training_file_is_the_challenge_form(small, folder, column):
    for path in sorted((small / folder).glob("D*_z.fits")):
        assert path.stat().st_size == 20160  # as the real files
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert hdus[0].data is None and len(hdus[0].header) == 4
            table = hdus[1]
            assert table.name == "" and len(table.header) == 13 and len(table.data) == 1
            assert table.columns.names == [column, "band_z"] and table.columns.formats == ["24A", "1681D"]
            image = table.data["band_z"][0]
            assert table.data[column][0] == path.stem[:-2]
            assert (
                image.shape == (41, 41)
                and image.dtype.newbyteorder("=") == np.float64
                and np.isfinite(image).all()
            )


def test_encoding_equals_astropy():
    image = np.random.default_rng(0).normal(size=(41, 41))
    columns = [
        fits.Column("Lens ID", "24A", array=["D1_L_00000007"]),
        fits.Column("band_r", "1681D", dim="(41,41)", array=image[None]),
    ]
    theirs = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(theirs)
    assert files.encode("slsim_lenses", "D1_L_00000007", 1, "r", image) == theirs.getvalue()
    theirs = BytesIO()
    fits.PrimaryHDU(image).writeto(theirs)
    assert files.encode("test_dataset", "object_00007", 1, "r", image) == theirs.getvalue()


def test_pixels_in_the_files_are_those_simulated(small):
    generators = [np.random.default_rng(seed_from(11, "hsc_lenses", k)) for k in range(32)]
    image, _ = challenge_images.simulate_objects(generators, ["hsc"] * 32, [1] * 32)
    for band, plane in zip("grizy", image[2].double().numpy()):
        with fits.open(small / f"hsc_lenses/D2_L_00000002_{band}.fits") as hdus:
            assert np.array_equal(hdus[1].data[f"band_{band}"][0], plane)


def test_parameter_tables(small):
    table = Table.read(small / "slsim_lenses/parameters.fits")
    assert table.colnames == ["Lens ID", *files.LENS_COLUMNS] and len(table) == 3
    assert list(table["Lens ID"]) == [f"D1_L_{k:08d}" for k in range(3)]
    sigma = cosmology.velocity_dispersion_isothermal(
        *(torch.tensor(table[name].data.astype(float)) for name in ("Rein", "zlens", "zsrc"))
    )
    np.testing.assert_allclose(sigma, table["vel disp"], rtol=1e-6)
    table = Table.read(small / "hsc_nonlenses/parameters.fits")
    assert table.colnames == ["Object ID", *files.OTHER_COLUMNS] and len(table) == 3


def test_blind_form(small):
    with open(small / "test_truth.csv") as file:
        truth = list(csv.DictReader(file))
    assert [row["id"] for row in truth] == [f"object_{k:05d}" for k in range(8)]
    kinds = [(row["domain"], row["label"]) for row in truth]
    assert all(
        kinds.count(kind) == 2 for kind in (("slsim", "1"), ("slsim", "0"), ("hsc", "1"), ("hsc", "0"))
    )
    with fits.open(small / "test_dataset/object_00003_i.fits") as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1 and hdus[0].data.shape == (41, 41)


def test_bytes_do_not_depend_on_workers_count_or_bands(small, tmp_path):
    simulate.main(
        [
            "challenge",
            "--out",
            str(tmp_path / "a"),
            "--objects",
            "35",
            "--seed",
            "11",
            "--bands",
            "r",
            "y",
            "--domains",
            "hsc",
            "--workers",
            "2",
        ]
    )
    whole, part = contents(small), contents(tmp_path / "a")
    shared = [name for name in part if name in whole and "/D2_" in name]
    assert len(shared) == 2 * 3 * 2
    assert all(part[name] == whole[name] for name in shared)
    other = contents(run(tmp_path / "b", "--objects", 1, "--seed", 12, "--bands", "r", "--domains", "hsc"))
    assert other["hsc_lenses/D2_L_00000000_r.fits"] != whole["hsc_lenses/D2_L_00000000_r.fits"]


def test_goes_on_where_it_was_interrupted(small, tmp_path):
    root = run(tmp_path / "a", "--objects", 2, "--seed", 11, "--blind", 8)
    (root / "hsc_lenses/D2_L_00000001_g.fits").write_bytes(b"cut short")
    (root / "slsim_lenses/D1_L_00000000_g.fits").unlink()
    (root / "objects.csv").unlink()
    run(root, "--objects", 3, "--seed", 11, "--blind", 8)
    assert contents(root) == contents(small)


def test_refusals(small, tmp_path):
    before = contents(small)
    (tmp_path / "thesis.tex").write_text("precious")
    for flags, words in (
        (["--out", small, "--seed", 12], "seed 11"),
        (["--out", small, "--seed", 11, "--objects", 3, "--bands", "g"], "bands"),
        (["--out", small, "--seed", 11, "--objects", 1, "--blind", 8], "--objects 3"),
        (["--out", tmp_path], "not from simulate.py"),
        ([], "--out"),
        (["--out", tmp_path / "new", "--objects", 0], "nothing to write"),
        (["--out", tmp_path / "new", "--bands", "g", "g"], "at most once"),
        (["--out", tmp_path / "new", "--domains", "des"], "domains"),
        (["--out", tmp_path / "new", "--workers", 0], "--workers"),
    ):
        with pytest.raises(Mistake, match=words):
            simulate.main(["challenge", *map(str, flags)])
    with pytest.raises(Mistake, match="challenge"):
        simulate.main(["chalenge"])
    assert contents(small) == before and not (tmp_path / "new").exists()
    assert json.loads((small / "simulation.json").read_text())["objects"] == 3


def test_priors_are_the_published_ones():
    generators = [np.random.default_rng(seed_from(1, k)) for k in range(1500)]
    lens = lenses.draw_lenses(generators, challenge_images.pixel_noise())
    # Mean and spread over the challenge's training lenses: see challenge_lenses.
    for name, mean, spread in (
        ("zlens", 0.724, 0.266),
        ("Rein", 0.911, 0.389),
        ("vel_disp", 241, 55),
        ("zsrc", 2.398, 0.81),
        ("Reff_l", 0.635, 0.192),
        ("Reff_s", 0.109, 0.065),
        ("sh", 0.0194, 0.0182),
    ):
        assert abs(float(lens[name].mean()) - mean) < 0.25 * spread, name
        assert 0.6 < float(lens[name].std()) / spread < 1.3, name
    published = {
        "mag_lens": (22.99, 21.77, 20.79, 20.27, 19.97),
        "mag_src": (24.76, 24.45, 24.28, 24.16, 24.07),
    }
    for name, means in published.items():
        assert (lens[name].mean(0) - torch.tensor(means)).abs().max() < 0.3, name
    assert float(lens["magnification"].min()) > 3


def test_noise_and_flux_of_the_images():
    for domain in ("slsim", "hsc"):
        image, scenes = objects(domain, 1)
        assert torch.isfinite(image).all()
        # The darkest pixels have the noise of a one-year coadd: 5-sigma depths 26.1 26.1 25.7 25.1 24.1.
        pixels = image.flatten(2)
        below = (pixels.median(-1).values - pixels.quantile(0.1587, dim=-1)).median(0).values
        ratio = below / challenge_images.pixel_noise()
        assert ((ratio > 0.8) & (ratio < 2.0)).all(), (domain, ratio)
    area = 2.266 * (torch.tensor(challenge_images.RUBIN_SEEING) / 0.2) ** 2
    depth = 27 - 2.5 * torch.log10(5 * challenge_images.pixel_noise() * area**0.5)
    torch.testing.assert_close(depth, torch.tensor([26.1, 26.1, 25.7, 25.07, 24.05]), rtol=0, atol=0.12)


def test_pixel_integration_is_finer_than_the_noise():
    generators = [np.random.default_rng(seed_from(5, k)) for k in range(8)]
    scenes = sky.draw_scenes(generators, ["slsim"] * 8, [1, 0] * 4, challenge_images.pixel_noise())
    coarse, fine = challenge_images.render(scenes), challenge_images.render(scenes, finer=4)
    assert float(((coarse - fine).sum((-2, -1)) / fine.sum((-2, -1))).abs().max()) < 5e-3


def test_brightness_and_colour_do_not_give_the_class_away():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = [objects(domain, label, 160)[0] for domain in ("slsim", "hsc") for label in (0, 1)]
    flux = torch.cat(images).sum((-2, -1)).clamp(min=0.1)
    magnitude = -2.5 * torch.log10(flux)
    features = torch.cat([magnitude, magnitude[:, :-1] - magnitude[:, 1:]], 1).numpy()
    label = np.tile(np.repeat([0, 1], 160), 2)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = cross_val_predict(model, features, label, cv=4, method="predict_proba")[:, 1]
    assert roc_auc_score(label, score) < 0.75
