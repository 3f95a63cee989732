"""data/cutouts/blank.py: what shows no sky, and what only looks as if it did."""

import numpy as np
import pytest
from astropy.io import fits

from data.cutouts import buckets, examples, store
from data.cutouts.blank import MAX_BLANK, check_max_blank, fill_mask, reason_without_sky, refuse_blank
from utils.mistake import Mistake

RNG = np.random.default_rng(0)
SIDE = 41
SKY = RNG.normal(0, 1, (SIDE, SIDE)).astype("f4")
Y, X = np.mgrid[:SIDE, :SIDE] - SIDE // 2
GALAXY = (50 * np.exp(-np.hypot(X, Y) / 3)).astype("f4")


def flat(value):
    return np.full((SIDE, SIDE), value, "f4")


def half(value, image=SKY, rows=24):
    """The lower rows of an image beyond the edge of a survey."""
    image = image.copy()
    image[:rows] = value
    return image


def with_pixels(image, value, count):
    image = image.copy()
    image.ravel()[:count] = value
    return image


def hot(image):
    image = image.copy()
    image[5, 7] = image[20, 11] = 3
    return image


NO_SKY = {
    "zero": (flat(0), "all 1681 pixels are 0"),
    "constant": (flat(7.25), "all 1681 pixels are 7.25"),
    "1e20": (flat(1e20), "are 1e.20"),
    "-1e20": (flat(-1e20), "are -1e.20"),
    "1e30": (flat(1e30), "are 1e.30"),
    "-999": (flat(-999), "are -999"),
    "saturated": (flat(65535), "are 65535"),
    "zero with hot pixels": (hot(flat(0)), "1679 of 1681 pixels are 0, more than the share 0.5"),
    "beyond the edge": (half(0), "984 of 1681 pixels are 0, more than the share 0.5 of --max_blank"),
    "beyond the edge, integers": (half(0, np.round(100 + 5 * SKY)), "984 of 1681 pixels are 0"),
    "saturated in half": (half(32767, np.round(100 + 5 * SKY)), "984 of 1681 pixels are 32767"),
    "-999 in a corner": (with_pixels(SKY, -999, 12), "12 of 1681 pixels have a fill value .-999.*max_masked"),
    "-9999 in one pixel": (with_pixels(SKY + GALAXY, -9999, 1), "1 of 1681 pixels have a fill value .-9999"),
    "1e20 in a corner": (with_pixels(SKY, 1e20, 3), "3 of 1681 pixels have a fill value .1e.20"),
    "two fill values": (with_pixels(with_pixels(SKY, -99, 30), -999, 10), "30 of 1681.*-999, -99"),
    "3e38": (with_pixels(SKY, 3.4e38, 1), "1 of 1681 pixels have a fill value"),
}
SHOWS_SKY = {
    "noise": SKY,
    "galaxy": SKY + GALAXY,
    "a third beyond the edge": half(0, rows=13),
    "counts, mostly zero": RNG.poisson(0.2, (SIDE, SIDE)).astype("f4"),
    "counts, nearly all zero": RNG.poisson(0.02 + GALAXY / 20).astype("f4"),
    "coarse integers": np.round(0.3 * SKY),
    "coarse and scaled": (np.round(0.3 * SKY) * 0.25 + 12.5).astype("f4"),
    "clipped at zero": np.maximum(SKY - 0.3, 0),
    "without noise": GALAXY,
    "-999 within the noise": np.round(400 * SKY).clip(-999, None),
    "-99 in bright sky": with_pixels(np.round(30 * SKY), -99, 1),
    "immense, all of it": (SKY + GALAXY) * np.float32(1e18),
    "tiny": (SKY + GALAXY) * np.float32(1e-29),
    "a saturated star": np.minimum(SKY + 5000 * GALAXY, 65535),
    "a star of 1e6 times the noise": SKY + 1e6 * (np.hypot(X, Y) < 1).astype("f4"),
}


@pytest.mark.parametrize("name", NO_SKY)
def test_what_shows_no_sky_is_refused_with_value_and_count(name):
    image, words = NO_SKY[name]
    images, bad = np.stack([SKY, image, GALAXY + SKY]), {}
    refuse_blank(images, MAX_BLANK, bad, 100)
    assert bad.keys() == {101} and not images[1].any() and np.array_equal(images[0], SKY)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(bad[101])


@pytest.mark.parametrize("name", SHOWS_SKY)
def test_what_shows_sky_is_left(name):
    image = SHOWS_SKY[name].astype("f4")
    images, bad = np.stack([image, SKY]), {}
    refuse_blank(images, MAX_BLANK, bad)
    assert not bad and np.array_equal(images[0], image) and reason_without_sky(image, MAX_BLANK) == ""


def test_the_share_is_an_option():
    images = np.stack([half(0, rows=13), half(0), hot(flat(0)), flat(0)])
    for share, refused in ((0.2, {0, 1, 2, 3}), (0.5, {1, 2, 3}), (0.8, {2, 3}), (1.0, {3})):
        bad = {}
        refuse_blank(images.copy(), share, bad)
        assert bad.keys() == refused, share
    for share in (0, -1, 1.5, "x"):
        with pytest.raises(Mistake, match="--max_blank"):
            check_max_blank(share)


def test_reasons_from_before_stay():
    bad = {0: "truncated"}
    refuse_blank(np.zeros((2, 9, 9), "f4"), MAX_BLANK, bad)
    assert bad == {0: "truncated", 1: "shows no sky: all 81 pixels are 0"}
    refuse_blank(np.zeros((0, 9, 9), "f4"), MAX_BLANK, bad)


def test_no_share_is_missed_by_the_quick_look():
    """Every arrangement of more equal pixels than the share, also the most scattered one, is looked at."""
    for share in (0.1, 0.25, 0.34, 0.5, 0.7):
        image = SKY.ravel().copy()
        places = np.unique(np.round(np.linspace(0, image.size - 1, int(share * image.size) + 2)).astype(int))
        image[places] = -5.5
        count = len(places)
        assert count > share * image.size
        found = {}
        refuse_blank(np.stack([image.reshape(SIDE, SIDE)]), share, found)
        expected = reason_without_sky(image.reshape(SIDE, SIDE), share)
        assert found.get(0, "") == expected


def test_masks_of_fill_values():
    image = with_pixels(SKY, -999, 12)
    assert np.array_equal(fill_mask(image), image == -999)
    image[3, 3] = np.nan
    assert np.array_equal(fill_mask(image), image == -999)
    assert fill_mask(SKY) is None and fill_mask(flat(-999)) is None and fill_mask(flat(np.nan)) is None


def write(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        fits.PrimaryHDU(image).writeto(folder / f"{name}.fits")


@pytest.mark.parametrize("max_blank", [0.5, 1.0])
def test_a_store_quarantines_the_band(tmp_path, max_blank):
    write(
        tmp_path / "in",
        {
            "a_g": SKY,
            "a_r": flat(0),
            "b_g": half(0),
            "b_r": SKY + GALAXY,
            "c_g": flat(1e20),
            "c_r": flat(-1e20),
        },
    )
    index = buckets.inventory_of_images(tmp_path / "in")
    packed = store.pack_cutouts(
        index, tmp_path / "out", say=lambda line: None, max_blank=max_blank, workers=2
    )
    reasons = dict(zip(packed.index["path"].str[-8:-5], packed.index["reason"]))
    assert [name for name, reason in reasons.items() if reason] == (
        ["a_r", "b_g", "c_g", "c_r"] if max_blank < 1 else ["a_r", "c_g", "c_r"]
    )
    assert not packed.pixels[1].any() and packed.manifest["max_blank"] == max_blank
    stack = examples.make_examples(packed, np.arange(6), ["g", "r"], "stack")
    assert any("bands missing" in line for line in stack.report)
    assert sum("objects left out" in line for line in stack.report) == 1
    assert store.inventory_digest(index, max_blank=0.5) != store.inventory_digest(index, max_blank=1.0)


def test_real_images_show_sky(shared_data):
    for path in sorted((shared_data("lens/des_galaxies")).glob("*.fits")):
        images = np.ascontiguousarray(fits.getdata(path), dtype="f4")
        bad = {}
        refuse_blank(images.copy(), MAX_BLANK, bad)
        assert not bad
