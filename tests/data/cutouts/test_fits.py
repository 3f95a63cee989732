"""data/cutouts/fits.py against astropy on every form of the wild, on real files of five surveys, and against
files that are wrong in every way.
"""

import gzip
import io
import os
import tracemalloc
import warnings

import numpy as np
import pytest
from astropy.io import fits

from data.cutouts.fits import BadFile, read_cutout

RNG = np.random.default_rng(1)
IMAGE = RNG.normal(size=(41, 41))
SIMPLE = ("SIMPLE", f"{'T':>20}")
EMPTY = fits.PrimaryHDU
OBLONG = RNG.normal(size=(3, 24, 25))


def table(*columns, **header):
    return fits.BinTableHDU.from_columns(
        [fits.Column("Lens ID", "24A", array=np.array(["D1_L_00000000"])), *columns],
        header=fits.Header(header),
    )


def vector(name, letter, array=IMAGE, dim="(41,41)"):
    return fits.Column(
        name, f"{array.size}{letter}", dim=dim, array=array.reshape(1, *(array.shape if dim else [-1]))
    )


def content(*hdus):
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(stream, output_verify="ignore")
    return stream.getvalue()


def of_scaled(dtype, bscale, bzero):
    """Scaled integers with the very bytes and cards that are asked for: astropy would write its own."""
    raw = RNG.integers(0, 100, (41, 41)).astype(dtype)
    cards = [
        SIMPLE,
        ("BITPIX", raw.dtype.itemsize * 8),
        ("NAXIS", 2),
        ("NAXIS1", 41),
        ("NAXIS2", 41),
        ("BSCALE", bscale),
        ("BZERO", bzero),
    ]
    return from_cards(cards, raw.astype(raw.dtype.newbyteorder(">")).tobytes()), raw * np.float64(
        bscale
    ) + np.float64(bzero)


def from_cards(cards, data=b""):
    """An HDU with exactly these cards and bytes: astropy would write its own choice of them."""
    header = b"".join(
        f"{name:<8}= {value if type(value) is str else format(value, '>20')}".encode().ljust(80)
        for name, value in cards
    ) + b"END".ljust(80)
    return header.ljust(-(-len(header) // 2880) * 2880) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")


def place(tmp_path, raw, name="x.fits"):
    path = tmp_path / name
    path.write_bytes(raw)
    return path


FORMS = {
    "primary_float32": lambda: content(fits.PrimaryHDU(IMAGE.astype("f4"))),
    "primary_float64": lambda: content(fits.PrimaryHDU(IMAGE)),
    "extension": lambda: content(EMPTY(), fits.ImageHDU(IMAGE.astype("f4"), name="SCI")),
    "extension_then_empty_ones": lambda: content(
        EMPTY(), fits.ImageHDU(IMAGE), fits.ImageHDU(), fits.ImageHDU()
    ),
    "image_then_weight_and_psf": lambda: content(
        EMPTY(), fits.ImageHDU(IMAGE), fits.ImageHDU(IMAGE * 2), fits.ImageHDU(np.ones((9, 9)))
    ),
    "catalogue_then_image": lambda: content(
        EMPTY(), table(fits.Column("mag", "E", array=[20.0])), fits.ImageHDU(IMAGE)
    ),
    "band_g_float64": lambda: content(EMPTY(), table(vector("band_g", "D"))),
    "band_g_float32": lambda: content(EMPTY(), table(vector("band_g", "E"))),
    "BAND_Y_upper_case": lambda: content(EMPTY(), table(vector("BAND_Y", "E"))),
    "image_column": lambda: content(EMPTY(), table(vector("other", "E", IMAGE + 5), vector("image", "E"))),
    "band_before_image_column": lambda: content(
        EMPTY(), table(vector("image", "E", IMAGE + 5), vector("band_r", "E"))
    ),
    "1681E_without_TDIM": lambda: content(EMPTY(), table(vector("pixels", "E", dim=None))),
    "1681D_without_TDIM": lambda: content(EMPTY(), table(vector("pixels", "D", dim=None))),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_pixels_that_were_written(form, packed, tmp_path):
    raw = FORMS[form]()
    pixels = read_cutout(
        place(tmp_path, gzip.compress(raw) if packed else raw, "x.fits.gz" if packed else "x.fits")
    )
    assert (
        pixels.dtype == np.float32
        and pixels.dtype.isnative
        and pixels.flags.c_contiguous
        and pixels.shape == (41, 41)
    )
    np.testing.assert_array_equal(pixels, IMAGE.astype("f4"))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8"])
def test_scaled_integers_are_physical_values(dtype, tmp_path):
    raw, physical = of_scaled(dtype, 0.25, -3.5)
    np.testing.assert_array_equal(read_cutout(place(tmp_path, raw)), physical.astype("f4"))


# 32768 is the unsigned convention, where astropy's default forgets BLANK
@pytest.mark.parametrize("bzero", [0, 32768])
def test_blank_pixels_are_refused_as_not_finite(bzero, tmp_path):
    cards = [
        SIMPLE,
        ("BITPIX", 16),
        ("NAXIS", 2),
        ("NAXIS1", 41),
        ("NAXIS2", 41),
        ("BZERO", bzero),
        ("BLANK", -7),
    ]
    raw = np.arange(1681, dtype=">i2").reshape(41, 41)
    np.testing.assert_array_equal(
        read_cutout(place(tmp_path, from_cards(cards, raw.tobytes()))), raw.astype("f4") + bzero
    )
    raw[3, :5] = -7
    with pytest.raises(BadFile, match="5 of 1681 pixels are not finite"):
        read_cutout(place(tmp_path, from_cards(cards, raw.tobytes())))


def test_a_scaled_column_with_a_null_value(tmp_path):
    raw = np.arange(1681, dtype=">i2")
    cards = [
        ("XTENSION", "'BINTABLE'"),
        ("BITPIX", 8),
        ("NAXIS", 2),
        ("NAXIS1", 3362),
        ("NAXIS2", 1),
        ("PCOUNT", 0),
        ("GCOUNT", 1),
        ("TFIELDS", 1),
        ("TFORM1", "'1681I'"),
        ("TTYPE1", "'band_g'"),
        ("TDIM1", "'(41,41)'"),
        ("TSCAL1", 0.5),
        ("TZERO1", 1.0),
        ("TNULL1", -9),
    ]
    path = place(tmp_path, content(EMPTY()) + from_cards(cards, raw.tobytes()))
    np.testing.assert_array_equal(read_cutout(path), raw.reshape(41, 41).astype("f4") / 2 + 1)
    raw[40:42] = -9
    with pytest.raises(BadFile, match="2 of 1681 pixels are not finite"):
        read_cutout(place(tmp_path, content(EMPTY()) + from_cards(cards, raw.tobytes())))


def test_no_declared_shape_takes_what_is_there(tmp_path):
    np.testing.assert_array_equal(
        read_cutout(place(tmp_path, content(fits.PrimaryHDU(OBLONG))), None), OBLONG.astype("f4")
    )
    path = place(tmp_path, content(EMPTY(), table(vector("band_g", "E", OBLONG, "(25,24,3)"))))
    np.testing.assert_array_equal(read_cutout(path, None), OBLONG.astype("f4"))
    np.testing.assert_array_equal(read_cutout(path, (3, 24, 25)), OBLONG.astype("f4"))


def corrupted(form, old, new):
    raw = FORMS[form]()
    assert raw.count(old) and len(old) == len(new)
    return raw.replace(old, new)


nan = IMAGE.copy()
nan[:2, 7] = np.nan, np.inf
WRONG = {
    "empty": (lambda: b"", "empty file"),
    "text": (lambda: b"these are not the pixels\n" * 900, "not a FITS file"),
    "zeros": (lambda: bytes(20160), "not a FITS file"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(3000), "not a FITS file"),
    "primary_cut_in_the_data": (lambda: FORMS["primary_float64"]()[:9000], "truncated"),
    "table_cut_in_the_data": (lambda: FORMS["band_g_float64"]()[:9000], "truncated"),
    "cut_after_the_primary_header": (
        lambda: FORMS["band_g_float64"]()[:2880],
        "no image: every HDU is empty",
    ),
    "cut_in_the_header": (lambda: FORMS["primary_float64"]()[:1000], "unreadable|truncated"),
    "gz_cut": (lambda: gzip.compress(FORMS["primary_float64"]())[:5000], "damaged gzip"),
    "gz_flipped": (
        lambda: (lambda b: b[:3000] + bytes([b[3000] ^ 16]) + b[3001:])(
            gzip.compress(FORMS["primary_float64"]())
        ),
        "damaged gzip",
    ),
    "gz_of_text": (lambda: gzip.compress(b"hello"), "not a FITS file"),
    "gz_bomb": (lambda: gzip.compress(FORMS["primary_float64"]() + bytes(2**26)), "too large"),
    "no_data": (lambda: content(EMPTY()), "no image: every HDU is empty"),
    "NaN_and_inf": (lambda: content(fits.PrimaryHDU(nan)), "2 of 1681 pixels are not finite"),
    "beyond_float32": (lambda: content(fits.PrimaryHDU(IMAGE * 1e60)), "pixels are not finite"),
    "NaN_in_a_table": (
        lambda: content(EMPTY(), table(vector("band_g", "D", nan))),
        "2 of 1681 pixels are not finite",
    ),
    "other_size": (
        lambda: content(fits.PrimaryHDU(np.zeros((40, 41)))),
        "wrong geometry: HDU 0 is 40x41, expected 41x41",
    ),
    "transposed_1681": (lambda: content(fits.PrimaryHDU(np.zeros((1, 1681)))), "is 1x1681, expected 41x41"),
    "flat_1681": (lambda: content(fits.PrimaryHDU(np.zeros(1681))), "is 1681, expected 41x41"),
    "cube": (lambda: content(fits.PrimaryHDU(np.zeros((5, 41, 41)))), "is 5x41x41"),
    "cube_of_one": (lambda: content(fits.PrimaryHDU(np.zeros((1, 41, 41)))), "is 1x41x41"),
    "wrong_image_before_a_psf_of_41x41": (
        lambda: content(EMPTY(), fits.ImageHDU(np.zeros((99, 99))), fits.ImageHDU(IMAGE)),
        "is 99x99",
    ),
    "TDIM_of_another_geometry": (
        lambda: content(EMPTY(), table(vector("band_g", "E", np.zeros((1, 1681)), "(1681,1)"))),
        "is 1x1681",
    ),
    "TDIM_that_lies": (lambda: corrupted("band_g_float32", b"(41,41)", b"(41,40)"), "is 40x41|unreadable"),
    "short_vector": (
        lambda: content(EMPTY(), table(vector("band_g", "E", np.zeros(1600), None))),
        "is 1600, expected 1681",
    ),
    "catalogue": (
        lambda: content(EMPTY(), table(fits.Column("mag", "E", array=[20.0]))),
        "table without an image column",
    ),
    "two_bands_in_one_file": (
        lambda: content(EMPTY(), table(vector("band_g", "E"), vector("band_r", "E"))),
        "several image columns: band_g, band_r",
    ),
    "column_of_text": (
        lambda: content(EMPTY(), table(fits.Column("band_g", "1681A", array=np.array(["x" * 1681])))),
        "format '1681A'",
    ),
    "complex_column": (
        lambda: content(EMPTY(), table(vector("band_g", "C", IMAGE.astype("c8")))),
        "format '1681C'",
    ),
    "variable_length_column": (
        lambda: content(
            EMPTY(),
            fits.BinTableHDU.from_columns(
                [fits.Column("band_g", "PE()", array=np.array([IMAGE.ravel()], dtype=object))]
            ),
        ),
        "format 'PE",
    ),
    "two_rows": (
        lambda: content(
            EMPTY(),
            fits.BinTableHDU.from_columns([fits.Column("band_g", "1681E", array=np.zeros((2, 1681)))]),
        ),
        "2 rows",
    ),
    "no_row": (
        lambda: content(
            EMPTY(),
            fits.BinTableHDU.from_columns([fits.Column("band_g", "1681E", array=np.zeros((0, 1681)))]),
        ),
        "0 rows",
    ),
    "tiles_of_another_geometry": (
        lambda: content(EMPTY(), fits.CompImageHDU(np.zeros((40, 41), "f4"))),
        "wrong geometry: HDU 1 is 40x41, expected 41x41",
    ),
    "tiles_cut": (
        lambda: content(EMPTY(), fits.CompImageHDU((IMAGE * 100).astype("i4")))[:-2880],
        "truncated",
    ),
    "ascii_table": (
        lambda: content(
            EMPTY(), fits.TableHDU.from_columns([fits.Column("a", "E10.4", ascii=True, array=[1.0])])
        ),
        "neither an image",
    ),
    "random_groups": (
        lambda: from_cards(
            [
                SIMPLE,
                ("BITPIX", -32),
                ("NAXIS", 3),
                ("NAXIS1", 0),
                ("NAXIS2", 41),
                ("NAXIS3", 41),
                ("GROUPS", f"{'T':>20}"),
                ("PCOUNT", 0),
                ("GCOUNT", 1),
            ],
            bytes(4 * 1681),
        ),
        "neither an image",
    ),
}


@pytest.mark.filterwarnings("error")  # also shows that nothing of astropy's noise gets out
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_with_its_reason(wrong, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = WRONG[wrong][0]()
    with pytest.raises(BadFile, match=WRONG[wrong][1]) as refused:
        read_cutout(place(tmp_path, raw))
    assert "\n" not in str(refused.value) and str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_opened_is_refused_but_trouble_of_the_machine_is_raised(tmp_path, monkeypatch):
    with pytest.raises(BadFile, match="cannot be opened: No such file"):
        read_cutout(tmp_path / "gone.fits")
    with pytest.raises(BadFile, match="cannot be opened: Is a directory"):
        read_cutout(tmp_path)
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(BadFile, match="not a regular file"):
        read_cutout(tmp_path / "pipe.fits")  # and does not wait for a writer

    def no_more_files(*_, **__):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr("os.open", no_more_files)
    with pytest.raises(OSError, match="Too many open files"):
        read_cutout(tmp_path / "good.fits")


@pytest.mark.parametrize(
    "cards",
    [
        [("NAXIS", 2), ("NAXIS1", 2**31), ("NAXIS2", 2**31)],
        [("NAXIS", 1), ("NAXIS1", 2**62)],
        [("NAXIS", 1_000_000_000), ("NAXIS1", 41)],
        [("NAXIS", 2), ("NAXIS1", 41), ("NAXIS2", 41), ("GCOUNT", 2**40), ("PCOUNT", 2**50)],
        [("NAXIS", 2), ("NAXIS1", -41), ("NAXIS2", -41)],
    ],
    ids=["square", "line", "axes", "groups", "negative"],
)
@pytest.mark.parametrize("shape", [(41, 41), None])
def test_a_giant_header_allocates_nothing(cards, shape, tmp_path):
    path = place(tmp_path, from_cards([SIMPLE, ("BITPIX", -64), *cards], bytes(14400)))
    tracemalloc.start()
    with pytest.raises(BadFile):
        read_cutout(path, shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_a_table_that_declares_a_billion_columns_is_refused(tmp_path):
    raw = FORMS["band_g_float32"]().replace(
        b"TFIELDS =                    2", b"TFIELDS =           1000000000"
    )
    with pytest.raises(BadFile, match="TFIELDS = 1000000000"):
        read_cutout(place(tmp_path, raw))


def test_mutated_headers_never_do_worse_than_being_refused(tmp_path):
    rng = np.random.default_rng(3)
    for form in ("primary_float64", "extension", "band_g_float32"):
        good = np.frombuffer(FORMS[form](), dtype=np.uint8)
        for _ in range(60):
            raw = good.copy()
            raw[rng.integers(0, 5760, 3)] = rng.integers(32, 127, 3)
            try:
                assert read_cutout(place(tmp_path, raw.tobytes())).shape == (41, 41)
            except BadFile:
                pass


REAL = ["slacs_hst", "des_galaxies", "hsc_stars", "survey_stamps", "cosmos_hst_galaxies", "galaxy_zoo_decals"]


@pytest.mark.parametrize("survey", REAL)
def test_real_files_have_the_values_that_astropy_gives(survey, shared_data):
    read = 0
    for path in sorted(shared_data(f"lens/{survey}").rglob("*.fits")):
        if "catalog" in path.name:
            with pytest.raises(BadFile, match="without an image column|100 rows"):
                read_cutout(path, None)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path) as hdus:
                expected = next(hdu.data for hdu in hdus if hdu.data is not None).astype("f4")
        np.testing.assert_array_equal(read_cutout(path, None, finite=False), expected)
        if np.isfinite(expected).all():
            np.testing.assert_array_equal(read_cutout(path, expected.shape), expected)
        else:  # three of the survey stamps
            with pytest.raises(
                BadFile,
                match=f"{np.count_nonzero(~np.isfinite(expected))} of {expected.size} pixels are not finite",
            ):
                read_cutout(path, None)
        with pytest.raises(BadFile, match="wrong geometry: HDU . is .*, expected 41x41"):
            read_cutout(path)
        read += 1
    assert read


@pytest.mark.parametrize("content_of_pipe", [b"", FORMS["primary_float32"]()[:4000]], ids=["empty", "begun"])
def test_a_pipe_with_a_writer_is_refused_at_once(content_of_pipe, tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    ends = [
        os.open(tmp_path / "pipe.fits", os.O_RDONLY | os.O_NONBLOCK),
        os.open(tmp_path / "pipe.fits", os.O_WRONLY),
    ]
    os.write(ends[1], content_of_pipe)
    with pytest.raises(BadFile, match="not a regular file"):
        read_cutout(tmp_path / "pipe.fits")
    for end in ends:
        os.close(end)
    with pytest.raises(BadFile, match="not a regular file"):
        read_cutout("/dev/zero")


@pytest.mark.parametrize(
    "card",
    [
        b"GCOUNT  = q",
        b"gcount  = 'q       '",
        b" GCOUNT = q",
        b"GCOUNT= 'q'",
        b"PCOUNT  = 'q'",
        b"BITPIX  = q\n",
        b"NAXIS1  = 'q'",
    ],
)
def test_a_count_that_is_a_text_is_not_repeated_for_each_pixel(card, tmp_path):
    """astropy's size of the data is a product, and 'q' times 41 times 10,000,000 would fill the memory."""
    cards = [
        ("XTENSION", "'IMAGE   '"),
        ("BITPIX", 8),
        ("NAXIS", 2),
        ("NAXIS1", 41),
        ("NAXIS2", 10_000_000),
        ("PCOUNT", 0),
        ("GCOUNT", 1),
    ]
    image = from_cards(cards, bytes(2880))
    at = image.index(card.strip().upper()[:6])
    path = place(tmp_path, content(EMPTY()) + image[:at] + card.ljust(80) + image[at + 80 :])
    tracemalloc.start()
    with pytest.raises(BadFile, match="corrupt header: ......? = '?q") as refused:
        read_cutout(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 and "\n" not in str(refused.value)
