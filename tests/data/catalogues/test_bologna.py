"""data/catalogues/bologna.py: both challenges in small, with files written as theirs are."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from data.catalogues.bologna import open_source
from data.cutouts.metadata import typed_metadata, validate_metadata
from data.cutouts.source import open_source as from_recipe
from utils.mistake import Mistake

RNG = np.random.default_rng(3)


def write(path, side, value=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (RNG.normal(size=(side, side)) + value).astype("f4")
    fits.PrimaryHDU(pixels).writeto(path)
    return pixels


@pytest.fixture
def ground(tmp_path):
    pixels = {
        (name, band): write(tmp_path / "Public" / f"Band{number}" / f"imageSDSS_{band}-{name}.fits", 21)
        for number, band in enumerate("RIGU", 1)
        for name in (100000, 100001, 100002)
    }
    pd.DataFrame(
        {
            "ID": [100000, 100001, 100003],
            "is_lens": [1, 0, 1],
            "Einstein_area": [3.5, 0, 1],
            "numb_pix_lensed_image": [50, 0, 3],
        }
    ).to_csv(tmp_path / "classifications.csv", index=False)
    return tmp_path, pixels


def test_the_first_challenge(ground):
    root, pixels = ground
    source = open_source(str(root), str(root / "classifications.csv"))
    assert source.index["object"].tolist() == [
        name for name in ("100000", "100001", "100002") for _ in "giru"
    ]
    assert source.index["band"].tolist() == list("giru") * 3
    assert (
        source.index["label"].tolist() == [1] * 4 + [0] * 4 + [-1] * 4
        and source.index["label"].dtype == np.int8
    )
    images, bad = source.read(range(12))
    assert not bad and all(
        np.array_equal(image, pixels[int(name), band.upper()])
        for image, name, band in zip(images, source.index["object"], source.index["band"])
    )
    known = typed_metadata(source.metadata)
    assert validate_metadata(known).empty
    assert known["label_source"].tolist() == ["bologna:is_lens"] * 2 + [""] and known[
        "label_confidence"
    ].tolist()[:2] == [1, 1]
    assert (
        known["pixel_scale"].tolist() == [0.2] * 3
        and known["bologna_einstein_area"].tolist()[:2] == [3.5, 0]
        and known["ra"].isna().all()
    )
    assert any("rows without a file: 1 (100003)" in line for line in source.report)
    assert any("objects without a row, label -1: 1 (100002)" in line for line in source.report)
    assert from_recipe(source.recipe).index.equals(source.index)


def test_pixels_of_value_100_are_missing(ground):
    root, _ = ground
    path = root / "Public" / "Band1" / "imageSDSS_R-100000.fits"
    pixels = np.ones((21, 21), "f4")
    pixels[3:6, 4:8] = 100
    fits.PrimaryHDU(pixels).writeto(path, overwrite=True)
    row = open_source(str(root)).index["path"].tolist().index(str(path))
    assert np.array_equal(open_source(str(root)).read(range(row, row + 1))[0][0], np.ones((21, 21)))
    assert "2.7% of the pixels" in open_source(str(root), max_masked=0.02).read(range(row, row + 1))[1][row]
    assert open_source(str(root), masked_value=-7).read(range(row, row + 1))[0].max() == 100


def test_the_second_challenge(tmp_path):
    for band, side in (("VIS", 30), ("Y", 10), ("J", 10), ("H", 10)):
        for name in (200000, 200001, 200002, 200003):
            write(tmp_path / f"EUC_{band}" / f"imageEUC_{band}-{name}.fits", side)
    lines = [
        "# image catalogue",
        "# of the second challenge",
        "ID,z_lens,z_source,n_source_im,mag_eff,n_pix_source",
        "200000,0.5,2.1,2,3.0,50",
        "200001,0,0,0,0,0",
        "200002,0.4,1.0,1,1.5,50",
        "200003,0.4,1.0,1,,50",
    ]
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(Mistake, match="2 geometries, .*--image_size"):
        open_source(str(tmp_path), str(tmp_path / "truth.csv"))
    source = open_source(str(tmp_path), str(tmp_path / "truth.csv"), image_size=20)
    assert source.index["label"].tolist()[::4] == [1, 0, 0, -1] and source.index["band"].tolist()[:4] == [
        "H",
        "J",
        "VIS",
        "Y",
    ]
    assert source.metadata["redshift"].tolist() == pytest.approx([0.5, np.nan, 0.4, 0.4], nan_ok=True)
    assert source.metadata["bologna_mag_eff"].tolist() == pytest.approx([3.0, 0, 1.5, np.nan], nan_ok=True)
    assert source.metadata["label_source"].tolist()[0] == "bologna:n_source_im>0,mag_eff>1.6,n_pix_source>20"
    images, bad = source.read(range(16))
    assert not bad and images.shape == (16, 20, 20)
    with fits.open(source.files[2]) as hdus:
        assert images[2].sum() == pytest.approx(hdus[0].data.sum(), abs=1e-3)


def test_wrong_input(ground):
    root, _ = ground
    table = root / "wrong.csv"
    for content, words in (
        ("", "empty"),
        ("id,is_lens\n5,1\n", "none of its 1 IDs"),
        ("x,is_lens\n5,1\n", "no column ID"),
        ("ID,is_lens\n100000,2\n", "expected 1"),
        ("ID,is_lens\n100000,yes\n", "expected a number"),
        ("ID,is_lens\n100000,1\n100000,1\n", "twice"),
        ("ID,z_lens\n100000,1\n", "neither a column is_lens nor n_source_im"),
        ("ID,is_lens\n100000,1,5\n", "cannot be read"),
    ):
        table.write_text(content)
        with pytest.raises(Mistake, match=words):
            open_source(str(root), str(table))
    path = root / "Public" / "Band2" / "imageSDSS_I-100001.fits"
    path.write_bytes(path.read_bytes()[:3000])
    source = open_source(str(root))
    images, bad = source.read(range(12))
    assert list(bad) == [5] and "truncated" in bad[5] and not images[5].any()
    path.rename(root / "other.fits")
    assert any("files with other names, not packed: 1" in line for line in open_source(str(root)).report)
    with pytest.raises(Mistake, match="no file named like"):
        (root / "new").mkdir()
        (root / "other.fits").rename(root / "new" / "other.fits")
        open_source(str(root / "new"))
