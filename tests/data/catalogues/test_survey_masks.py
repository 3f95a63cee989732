"""Masks beside images, HDUs that are not used, units and zero points of a folder of FITS files."""

import numpy as np
import pytest
from astropy.io import fits

from data.catalogues.headers import look_at_headers, sample_of
from data.catalogues.masked import mask_of, masks_beside
from data.catalogues.planes import read_hdus
from data.catalogues.survey_fits import open_source
from data.cutouts import buckets, store
from data.survey.plan import plan_survey
from utils.mistake import Mistake

RNG = np.random.default_rng(4)
SKY = RNG.normal(10, 1, (20, 20)).astype("f4")
SPOILT = np.zeros((20, 20), bool)
SPOILT[4, 5] = SPOILT[15, 3:6] = True
FLAGS = np.where(SPOILT, 9, 0).astype("i4")
INVVAR = np.where(SPOILT, 0, 4).astype("f4")


def bad_pixels(image=SKY):
    """What stands in masked pixels: a mask that is not honoured shows."""
    image = image.copy()
    image[SPOILT] = 5000
    return image


def write(path, *planes, primary=None):
    """An empty primary HDU, then (name, array or header and array)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus = [fits.PrimaryHDU(header=fits.Header(primary or {}))]
    for name, array, *header in planes:
        hdus.append(fits.ImageHDU(array, fits.Header(header[0]) if header else None, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def packed_images(folder, max_masked=0.05, **options):
    """(images, reasons) of all files, in the order of their names."""
    names = sorted(path.name for path in folder.glob("*.fits"))
    table = folder.parent / "t.csv"
    table.write_text("object,file\n" + "".join(f"o{n},{name}\n" for n, name in enumerate(names)))
    source = open_source(str(folder), str(table), max_masked=max_masked, **options)
    return (*source.read(range(len(names))), source)


@pytest.mark.parametrize(
    "plane",
    [
        ("MASK", FLAGS),
        ("DQ", FLAGS),
        ("BPM", FLAGS.astype("u1")),
        ("DQ", FLAGS.astype("u4")),
        ("INVVAR", INVVAR),
        ("WHT", INVVAR),
    ],
    ids=lambda plane: plane[0],
)
def test_masked_pixels_are_filled_or_refused(plane, tmp_path):
    write(tmp_path / "in/a.fits", ("SCI", bad_pixels()), plane)
    write(tmp_path / "in/b.fits", plane, ("SCI", bad_pixels()))  # a mask is not the image
    images, bad, source = packed_images(tmp_path / "in")
    assert not bad and np.array_equal(images[0], images[1])
    assert np.array_equal(images[0][~SPOILT], SKY[~SPOILT]) and images[0].max() < 20
    assert images[0][4, 5] == pytest.approx((SKY[3:6, 4:7].sum() - SKY[4, 5]) / 8)
    assert source.metadata["survey_masked_fraction"].tolist() == [0.01, 0.01]
    lines, _ = source.said_by_headers()
    assert lines == [f"masked by HDUs {plane[0]}"]
    _, bad, source = packed_images(tmp_path / "in", max_masked=0.0)
    assert bad[0] == bad[1] == "1.0% of the pixels are masked or not finite, more than --max_masked 0"
    assert "--max_masked 0 refuses" in source.said_by_headers()[0][0]


def test_the_mask_can_be_named_or_left_alone(tmp_path):
    write(tmp_path / "in/a.fits", ("SCI", bad_pixels()), ("QUALITY", FLAGS), ("PSF", INVVAR))
    assert packed_images(tmp_path / "in")[0].max() == 5000
    for wanted in ("QUALITY", "quality", "2"):
        assert packed_images(tmp_path / "in", mask_hdu=wanted)[0].max() < 20
    bad = packed_images(tmp_path / "in", mask_hdu="NOPE")[1]
    assert bad[0] == "no HDU NOPE (--mask_hdu): it has PRIMARY, SCI, QUALITY, PSF"
    write(tmp_path / "other/a.fits", ("SCI", bad_pixels()), ("MASK", FLAGS))
    assert packed_images(tmp_path / "other", mask_hdu="none")[0].max() == 5000
    assert packed_images(tmp_path / "other", good_bits=1)[0].max() < 20
    assert packed_images(tmp_path / "other", good_bits=9)[0].max() == 5000


def test_flags_whose_meaning_the_header_tells(tmp_path):
    """The Rubin and HSC pipelines flag what they detect too: bit 5."""
    meant = {"MP_BAD": 0, "MP_CR": 3, "MP_DETECTED": 5, "MP_INTRP": 2}
    flags = np.where(SPOILT, 8, np.where(SKY > 11, 32, 4)).astype("i4")
    write(tmp_path / "in/a.fits", ("IMAGE", bad_pixels()), ("MASK", flags, meant))
    images, bad, _ = packed_images(tmp_path / "in")
    assert not bad and np.array_equal(images[0][~SPOILT], SKY[~SPOILT]) and images[0].max() < 20


def test_each_image_has_its_own_mask(tmp_path):
    other = np.zeros((20, 20), "i4")
    path = write(
        tmp_path / "in/a.fits",
        ("G", bad_pixels()),
        ("R", SKY),
        ("INVVAR_G", INVVAR),
        ("MASK_R", other),
        ("PSF", np.ones((5, 5), "f4")),
    )
    hdus = read_hdus(path)
    assert [mask.name for mask in masks_beside(hdus, hdus[1])] == ["INVVAR_G"]
    assert [mask.name for mask in masks_beside(hdus, hdus[2])] == ["MASK_R"]
    assert np.array_equal(mask_of(hdus[3], INVVAR), SPOILT)
    two = [fits.PrimaryHDU()]
    for version in (1, 2):
        two += [fits.ImageHDU(SKY, name="SCI", ver=version), fits.ImageHDU(FLAGS, name="DQ", ver=version)]
    fits.HDUList(two).writeto(tmp_path / "two.fits")
    hdus = read_hdus(tmp_path / "two.fits")
    assert [mask.number for mask in masks_beside(hdus, hdus[3])] == [4]


def test_masks_of_cubes(tmp_path):
    cube = np.stack([bad_pixels(), SKY])
    write(tmp_path / "in/a.fits", ("SCI", cube), ("IVAR", np.stack([INVVAR, np.ones_like(INVVAR)])))
    (tmp_path / "t.csv").write_text("file\na.fits\n")
    source = open_source(str(tmp_path / "in"), str(tmp_path / "t.csv"), planes=["g", "r"], max_masked=0.05)
    images, bad = source.read(range(2))
    assert not bad and images[0].max() < 20 and np.array_equal(images[1], SKY)


def test_fill_values_count_as_masked(tmp_path):
    image = SKY.copy()
    image[SPOILT] = -999
    write(tmp_path / "in/a.fits", ("", image))
    images, bad, _ = packed_images(tmp_path / "in")
    assert not bad and images[0].min() > 0
    bad = packed_images(tmp_path / "in", max_masked=0.0)[1]
    assert bad[0].startswith("4 of 400 pixels have a fill value (-999)")
    bad = packed_images(tmp_path / "in", max_masked=0.0, image_size=10)[
        1
    ]  # not resampled into its neighbours
    assert bad[0].startswith("4 of 400 pixels have a fill value (-999)")


def test_a_constant_image_stays_constant_when_it_is_resampled(tmp_path):
    write(tmp_path / "in/a.fits", ("", np.full((20, 20), 1e20, "f4")))
    write(tmp_path / "in/b.fits", ("", SKY))
    _, _, source = packed_images(tmp_path / "in", image_size=7)
    packed = store.pack_cutouts(
        source.index, tmp_path / "out", source.shape, source=source, digest="x" * 32, say=lambda line: None
    )
    assert packed.index["reason"][0].startswith("shows no sky: all 49 pixels are") and packed.good[1]


def test_hdus_that_are_not_used_are_named_in_one_line(tmp_path):
    for number in range(3):
        others = [("INVVAR", INVVAR), ("PSF", np.ones((5, 5), "f4"))][: 2 if number else 1]
        write(tmp_path / f"in/a{number}_g.fits", ("", SKY + number), *others)
    (tmp_path / "in" / "x.png").touch()
    said = []
    packed = store.pack_cutouts(
        buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", (20, 20), say=said.append
    )
    line = "HDUs 2 (INVVAR), 3 (PSF) not used, in up to 3 files (all 3 files looked at)"
    assert line in packed.summary()
    _, _, source = packed_images(tmp_path / "in", max_masked=0.0)
    assert source.said_by_headers()[0] == [
        "masked by HDUs INVVAR; --max_masked 0 refuses each image with such a pixel",
        "HDUs 3 (PSF) not used, in up to 2 files (all 3 files looked at)",
    ]
    assert "skipped, as they are no FITS files: 1 files (1 .png)" in source.report[0]


def test_units_zero_points_and_scales_that_differ_are_said(tmp_path):
    paths, bands = [], []
    for number in range(8):
        cards = {
            "BUNIT": "nJy" if number % 2 else "adu",
            "MAGZERO": 27.0 if number < 7 else 31.4,
            "PIXSCALE": 0.2 if number < 6 else 0.26,
        }
        paths.append(str(write(tmp_path / f"in/a{number}_g.fits", ("", SKY), primary=cards)))
        bands.append("g")
    headers = look_at_headers(paths, bands)
    assert headers.lines() == [
        "warning: pixel scales differ: 0.2 arcsec in 6 files, 0.26 arcsec in 2 files "
        "(all 8 files looked at); pixels are taken as they are",
        "warning: units (BUNIT) differ: 'adu' in 4 files, 'nJy' in 4 files (all 8 files looked at); "
        "pixels are "
        "taken as they are",
        "warning: zero points (MAGZERO) differ within band g: 27 in 7 files, 31.4 in 1 files (all 8 files "
        "looked at); pixels are taken as they are",
    ]
    assert headers.scales_said() == [[0.2, 6], [0.26, 2]]
    # of another band another zero point is no wonder
    assert not any("zero" in line for line in look_at_headers(paths, [*"ggggggg", "r"]).lines())
    assert (
        look_at_headers(paths, bands, most=2)
        .lines()[0]
        .endswith("(2 of 8 files looked at); pixels are taken as they are")
    )
    assert sample_of(1000, 3) == [0, 499, 999] and sample_of(0) == []


def test_a_wrong_image_size_is_said_before_anything_is_packed(tmp_path):
    for number in range(3):
        write(tmp_path / f"in/a{number}_g.fits", ("", SKY[:18, :18]))
    (tmp_path / "in" / "broken_g.fits").write_bytes(b"nothing")
    words = r"--image_size 41: the images have 18x18 pixels \(3 of 4 files looked at\), so nothing was packed"
    with pytest.raises(Mistake, match=words):
        store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out")
    assert not list((tmp_path / "out").glob("partial*"))
    with pytest.raises(Mistake, match=words):
        plan_survey(str(tmp_path / "in"), tmp_path / "plan", 10, 41, print)
    assert not (tmp_path / "plan" / "plan.json").exists()


def test_real_files_beside(shared_data, tmp_path):
    folder = shared_data("lens/hsc_stars")
    paths = sorted(map(str, folder.glob("*.fits")))
    headers = look_at_headers(paths, ["i"] * len(paths))
    assert headers.looked_at == len(paths) and set(headers.scales_said()[0]) == {0.168, len(paths)}
    assert not headers.unused or all(isinstance(name, str) for _, name in headers.unused)
