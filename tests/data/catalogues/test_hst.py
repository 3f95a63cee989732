"""data/catalogues/hst.py: headers of every camera, masks and errors, cutouts without their primary,
and files that are wrong.
"""

import numpy as np
import pytest
from astropy.io import fits

from data.catalogues.hst import open_source
from data.catalogues.masked import filled_pixels
from data.cutouts.metadata import typed_metadata, validate_metadata
from data.cutouts.source import open_source as from_recipe
from utils.mistake import Mistake

RNG = np.random.default_rng(6)
WCS_CARDS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 146.2,
    "CRVAL2": 33.1,
    "CRPIX1": 10.5,
    "CRPIX2": 10.5,
    "CD1_1": -0.05 / 3600,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 0.05 / 3600,
}
ACS = {
    "TELESCOP": "HST",
    "INSTRUME": "ACS",
    "DETECTOR": "WFC",
    "TARGNAME": "B1608+656",
    "RA_TARG": 242.3,
    "DEC_TARG": 65.5,
    "FILTER1": "CLEAR1L",
    "FILTER2": "F814W",
}


def product(path, primary=ACS, pixels=None, planes=None, **sci):
    """A file as AstroDrizzle writes it: empty PRIMARY, SCI and what `planes` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.normal(size=(20, 20)).astype("f4") if pixels is None else pixels
    hdus = [
        fits.PrimaryHDU(header=fits.Header(primary)),
        fits.ImageHDU(pixels, fits.Header(WCS_CARDS | sci), "SCI"),
    ]
    hdus += [fits.ImageHDU(plane, name=name) for name, plane in (planes or {}).items()]
    fits.HDUList(hdus).writeto(path, output_verify="silentfix")
    return pixels


def test_a_drizzled_image(tmp_path):
    pixels = product(
        tmp_path / "b1608_f814w_drz.fits",
        BUNIT="ELECTRONS/S",
        PHOTFLAM=7.0834177e-20,
        PHOTPLAM=8044.8877,
        planes={"WHT": np.ones((20, 20), "f4"), "CTX": np.ones((20, 20), "i4")},
    )
    source = open_source(str(tmp_path))
    path = str(tmp_path / "b1608_f814w_drz.fits")
    assert (
        source.index.values.tolist() == [[path + "#SCI", "B1608+656", "f814w", "castles", 1]]
        and source.index["label"].dtype == np.int8
    )
    known = source.metadata.iloc[0]
    assert (known["instrument"], known["bands"], known["hst_unit"], known["label_source"]) == (
        "HST ACS WFC",
        "f814w",
        "ELECTRONS/S",
        "castles",
    )
    # the WCS, not the target's cards
    assert (known["ra"], known["dec"], known["pixel_scale"]) == pytest.approx((146.2, 33.1, 0.05), abs=1e-9)
    # 25.94 in the ACS zero points of 2006
    assert known["hst_zero_point_f814w"] == pytest.approx(25.9388, abs=1e-3)
    assert known["hst_masked_fraction"] == 0 and known["label_confidence"] == 1
    images, bad = source.read(range(1))
    assert not bad and np.array_equal(images[0], pixels) and images.dtype == np.float32
    again = from_recipe(source.recipe)
    assert again.index.equals(source.index) and np.array_equal(again.read(range(1))[0], images)


@pytest.mark.parametrize(
    "cards, band, instrument",
    [
        ({"INSTRUME": "ACS", "FILTER1": "F606W", "FILTER2": "CLEAR2L"}, "f606w", "HST ACS"),
        ({"INSTRUME": "ACS", "FILTER1": "F606W", "FILTER2": "POL0V"}, "f606wpol0v", "HST ACS"),
        ({"INSTRUME": "WFC3", "DETECTOR": "IR", "FILTER": "F160W"}, "f160w", "HST WFC3 IR"),
        ({"INSTRUME": "NICMOS", "FILTER": "F160W"}, "f160w", "HST NICMOS"),
        (
            {"INSTRUME": "WFPC2", "FILTNAM1": "F555W", "FILTNAM2": "", "FILTER1": 22, "FILTER2": 0},
            "f555w",
            "HST WFPC2",
        ),
        ({"INSTRUME": "WFPC2"}, "f702w", "HST WFPC2"),
    ],
)
def test_filters_of_every_camera(tmp_path, cards, band, instrument):
    product(tmp_path / "HE0435_F702W_drz.fits", {"TELESCOP": "HST"} | cards)
    source = open_source(str(tmp_path))
    assert source.index[["object", "band"]].values.tolist() == [["HE0435", band]] and source.metadata[
        "instrument"
    ].tolist() == [instrument]


def test_a_cutout_that_has_lost_its_primary(tmp_path):
    product(
        tmp_path / "SDSSJ0029-0055.fits",
        {},
        PHOTMODE="ACS WFC1 F814W MJD#53990.6704",
        CRPIX1=-899.5,
        CRPIX2=435.0,
    )
    known = open_source(str(tmp_path), catalog="slacs").metadata.iloc[0]
    assert (known["object"], known["bands"], known["instrument"], known["label_source"]) == (
        "SDSSJ0029-0055",
        "f814w",
        "HST ACS",
        "slacs",
    )


def test_an_image_in_the_primary_and_bands_of_an_object(tmp_path):
    pixels = RNG.normal(size=(12, 12)).astype("f4")
    fits.PrimaryHDU(pixels, fits.Header(ACS | WCS_CARDS)).writeto(tmp_path / "hlsp_drz_sci.fits")
    product(
        tmp_path / "other" / "visit2_drz.fits",
        ACS | {"FILTER2": "F555W"},
        RNG.normal(size=(12, 12)).astype("f4"),
    )
    fits.PrimaryHDU(np.ones((12, 12), "f4")).writeto(tmp_path / "hlsp_drz_wht.fits")
    (tmp_path / "psf").mkdir()
    fits.PrimaryHDU(np.ones((5, 5), "f4")).writeto(tmp_path / "psf" / "star.fits")
    source = open_source(str(tmp_path))
    assert source.index[["object", "band"]].values.tolist() == [
        ["B1608+656", "f555w"],
        ["B1608+656", "f814w"],
    ]
    assert source.index["path"][1].endswith("hlsp_drz_sci.fits#PRIMARY") and np.array_equal(
        source.read(range(1, 2))[0][0], pixels
    )
    assert source.metadata["bands"].tolist() == ["f555w f814w"]
    assert source.report[1].startswith(
        "weights, masks, PSFs and tables by their names, not packed: 2 (hlsp_drz_wht.fits, star.fits)"
    )


def test_masks_and_errors(tmp_path):
    y, x = np.mgrid[:20, :20]
    galaxy = (100 * np.exp(-((x - 9.5) ** 2 + (y - 9.5) ** 2) / 30)).astype("f4")
    pixels, dq = galaxy.copy(), np.zeros((20, 20), "i2")
    pixels[9:11, 9] = 1e6  # a cosmic ray on the galaxy
    dq[9:11, 9] = 4096
    dq[0, :] = 64  # warm pixels
    wht, err = np.ones((20, 20), "f4"), np.full((20, 20), 2.0, "f4")
    wht[19, 19], pixels[5, 5], err[4, 4] = 0, np.nan, 0
    product(tmp_path / "a_flt.fits", pixels=pixels, planes={"ERR": err, "DQ": dq, "WHT": wht})
    strict, usual = open_source(str(tmp_path)), open_source(str(tmp_path), good_bits=96)
    assert strict.metadata["hst_masked_fraction"].tolist() == [25 / 400] and usual.metadata[
        "hst_masked_fraction"
    ].tolist() == [5 / 400]
    images, bad = usual.read(range(1))
    assert not bad and np.isfinite(images).all()
    assert images[0, 9, 9] == pytest.approx(galaxy[9, 9], rel=0.1)  # the galaxy goes on under it
    untouched = (dq != 4096) & (wht > 0) & np.isfinite(pixels) & (err > 0)
    assert np.array_equal(images[0][untouched], galaxy[untouched])
    good = galaxy[untouched].astype("f8") - np.median(galaxy[untouched])
    bright = good[good > 6]
    assert usual.metadata["snr_f814w"].tolist() == pytest.approx([bright.sum() / (2 * len(bright) ** 0.5)])
    _, bad = open_source(str(tmp_path), max_masked=0.05).read(range(1))
    assert bad == {0: "6.2% of the pixels are masked or not finite, more than --max_masked 0.05"}


def test_holes_are_filled_from_their_rims():
    image, mask = np.full((9, 9), 3.0, "f4"), np.zeros((9, 9), bool)
    mask[2:8, 1:7] = mask[0, 0] = True
    image[mask] = np.nan
    assert np.array_equal(filled_pixels(image, mask), np.full((9, 9), 3.0))
    image, mask = np.arange(25, dtype="f4").reshape(5, 5), np.zeros((5, 5), bool)
    mask[2, 2] = True
    assert filled_pixels(image, mask)[2, 2] == 12 and image[2, 2] == 12


def test_two_chips_and_versions(tmp_path):
    hdus = [fits.PrimaryHDU(header=fits.Header(ACS))]
    for version in (1, 2):
        hdus += [
            fits.ImageHDU(np.full((8, 8), version, "f4"), name="SCI", ver=version),
            fits.ImageHDU(np.zeros((8, 8), "i2"), name="DQ", ver=version),
        ]
    hdus[4].data[:] = 1  # of the second chip
    fits.HDUList(hdus).writeto(tmp_path / "x_flt.fits")
    source = open_source(str(tmp_path))
    assert [path.split("#")[1] for path in source.index["path"]] == ["SCI", "SCI,2"]
    images, bad = source.read(range(2))
    assert images[0, 0, 0] == 1 and "100.0% of the pixels are masked" in bad[1]


def test_geometries(tmp_path):
    first, second = (
        product(tmp_path / "a_drz.fits", {}),
        product(tmp_path / "b_drz.fits", {}, RNG.normal(size=(30, 26)).astype("f4")),
    )
    with pytest.raises(Mistake, match=r"2 geometries, 20x20 \(1\), 30x26 \(1\): give --image_size"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), image_size=10)
    images, bad = source.read(range(2))
    assert not bad and np.allclose(images.sum((1, 2)), [first.sum(), second.sum()], atol=1e-3)
    assert source.metadata["pixel_scale"].tolist() == pytest.approx([0.1, 0.05 * (3 * 2.6) ** 0.5])
    assert np.array_equal(open_source(str(tmp_path), crop=20).read(range(2))[0][1], second[5:25, 3:23])


def broken(path):
    """Files that are wrong, each in another way, and a word of the reason."""
    good = path / "good_drz.fits"
    product(good)
    raw = good.read_bytes()
    cases = {
        "cut": (raw[:7000], "truncated"),
        "empty": (b"", "empty file"),
        "text": (b"no image" * 500, "not a FITS"),
        "no_end": (raw[:2880].replace(b"END" + b" " * 77, b" " * 80), "truncated"),
        "gzip": (b"\x1f\x8b\x08" + b"x" * 99, "gzip"),
        "negative": (
            raw.replace(b"NAXIS1  =                   20", b"NAXIS1  =                  -20"),
            "corrupt header",
        ),
        "huge": (
            raw.replace(b"NAXIS1  =                   20", b"NAXIS1  =        9999999999999"),
            "truncated",
        ),
        "text_axis": (
            raw.replace(b"NAXIS2  =                   20", b"NAXIS2  = '20'                "),
            "corrupt header",
        ),
        "no_image": (raw[:2880], "no image"),
    }
    for name, (content, _) in cases.items():
        (path / f"x_{name}_drz.fits").write_bytes(content)
    product(path / "x_shape_drz.fits", planes={"DQ": np.zeros((5, 5), "i2")})
    product(path / "x_nan_drz.fits", pixels=np.full((20, 20), np.nan, "f4"))
    (path / "x_folder_drz.fits").mkdir()
    return {name: words for name, (_, words) in cases.items()} | {
        "shape": "DQ is 5x5",
        "nan": "100.0% of the pixels",
    }


def test_broken_files_are_reasons(tmp_path):
    expected = broken(tmp_path)
    source = open_source(str(tmp_path))
    images, bad = source.read(range(len(source.index)))
    reasons = {
        source.index["path"][row].split("x_")[1].split("_drz")[0]: reason for row, reason in bad.items()
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name] and "\n" not in reasons[name], (name, reasons[name])
    assert len(typed_metadata(source.metadata)) == source.index["object"].nunique()


def test_wrong_input_is_a_mistake(tmp_path):
    with pytest.raises(Mistake, match="holds no FITS file"):
        open_source(str(tmp_path))
    (tmp_path / "a.fits").write_bytes(b"SIMPLE")
    with pytest.raises(Mistake, match="none of the files can be used.*a.fits"):
        open_source(str(tmp_path))
    for options, words in (
        ({"label": 2}, "--label"),
        ({"good_bits": -1}, "--good_bits"),
        ({"max_masked": 1.0}, "--max_masked"),
        ({"crop": 1.5}, "--crop"),
    ):
        with pytest.raises(Mistake, match=words):
            open_source(str(tmp_path), **options)


@pytest.mark.parametrize("folder, side", [("198x198", 198), (".", 99)])
def test_real_slacs(shared_data, folder, side):
    root = shared_data("lens/slacs_hst")
    source = open_source(str(root / folder), catalog="slacs", crop=side)
    images, bad = source.read(range(len(source.index)))
    assert (
        not bad
        and source.shape == (side, side)
        and set(source.index["band"]) == {"f814w"}
        and len(source.metadata) == 7
    )
    for path, image in zip(source.index["path"], images):
        theirs = fits.getdata(path.split("#")[0], "SCI")
        top = (len(theirs) - side) // 2
        assert np.array_equal(image, theirs[top : top + side, top : top + side].astype("f4"))
    assert source.metadata["pixel_scale"].tolist() == pytest.approx([0.05] * 7, abs=1e-9)
    assert (
        set(source.metadata["instrument"]) == {"HST ACS"}
        and (source.metadata["hst_zero_point_f814w"].between(25.9, 26)).all()
    )
    assert validate_metadata(source.metadata).empty
    # the name of each lens is its place
    ra = source.metadata["object"].str[5:9].map(lambda text: 15 * (int(text[:2]) + int(text[2:]) / 60))
    assert np.allclose(source.metadata["ra"], ra, atol=0.26)
