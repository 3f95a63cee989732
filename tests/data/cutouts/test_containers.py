"""FITS files as archives keep them: compressed tiles, bzip2, a last block cut short, masks before the
image.
"""

import bz2
import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from data.cutouts import fits as reader
from data.cutouts.fits import BadFile, read_cutout
from data.cutouts.fits_blocks import read_cutouts
from data.cutouts.fits_layout import shows_sky
from data.names import parse_name
from tests.data.cutouts.test_fits import EMPTY, IMAGE, content, place

FLOAT = IMAGE.astype("f4")
COUNTS = (IMAGE * 100).astype("i2")
MASK = np.zeros((41, 41), "i4")
MASK[3:5, 7] = 4


def tiles(image, kind, **options):
    return content(EMPTY(), fits.CompImageHDU(image, compression_type=kind, **options))


TILES = {
    "RICE_1": tiles(COUNTS, "RICE_1"),
    "GZIP_1": tiles(FLOAT, "GZIP_1", quantize_level=0),
    "GZIP_2": tiles(FLOAT, "GZIP_2", quantize_level=0),
    "HCOMPRESS_1": tiles(COUNTS, "HCOMPRESS_1"),
    "PLIO_1": tiles(np.abs(COUNTS), "PLIO_1"),
    "RICE_1 of floats": tiles(FLOAT, "RICE_1"),
    "named": tiles(FLOAT, "GZIP_1", quantize_level=0, name="SCI"),
    "after an empty one and a table": content(
        EMPTY(),
        fits.BinTableHDU.from_columns([fits.Column("mag", "E", array=[20.0])]),
        fits.CompImageHDU(COUNTS, name="IMAGE"),
        fits.CompImageHDU(COUNTS * 2, name="INVVAR"),
    ),
    "behind a compressed mask": content(
        EMPTY(), fits.CompImageHDU(MASK, name="MASK"), fits.CompImageHDU(COUNTS, name="SCI")
    ),
}


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("shape", [(41, 41), None])
def test_images_compressed_by_tiles_are_those_of_astropy(name, shape, tmp_path):
    path = place(tmp_path, TILES[name], "x.fits.fz")
    with fits.open(path) as hdus:
        expected = np.array(
            next(h for h in hdus if isinstance(h, fits.CompImageHDU) and h.name != "MASK").data, dtype="f4"
        )
    assert np.array_equal(read_cutout(path, shape), expected)
    if "floats" not in name:
        whole = {"PLIO_1": np.abs(COUNTS)}.get(name, COUNTS if expected[0, 0] == COUNTS[0, 0] else FLOAT)
        assert np.array_equal(expected, whole.astype("f4"))


def test_blank_pixels_of_tiles_are_not_finite(tmp_path):
    image = FLOAT.copy()
    image[2, 3] = np.nan
    with pytest.raises(BadFile, match="1 of 1681 pixels are not finite"):
        read_cutout(place(tmp_path, tiles(image, "RICE_1")))


def test_tiles_that_declare_too_much_allocate_nothing(tmp_path):
    for card, cure in (("ZNAXIS1", "wrong geometry"), ("ZTILE1", "tiles of")):
        raw = TILES["RICE_1"]
        at = raw.index(f"{card:<8}= ".encode())
        raw = raw[: at + 10] + b"%20d" % 2_000_000_000 + raw[at + 30 :]
        with pytest.raises(BadFile, match=cure):
            read_cutout(place(tmp_path, raw))


def test_damaged_tiles_never_end_the_process(tmp_path):
    """The decoder of HCOMPRESS writes beyond its memory where the stream is not sound."""
    raw, rng = TILES["HCOMPRESS_1"], np.random.default_rng(0)
    with fits.open(io.BytesIO(raw), disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
        end = start + hdus[1].size
    for _ in range(12):
        spoiled = bytearray(raw)
        for place_of_byte in rng.integers(start + 400, end, 20):
            spoiled[place_of_byte] = rng.integers(0, 256)
        path = place(tmp_path, bytes(spoiled))
        try:
            assert read_cutout(path).shape == (41, 41)
        except BadFile as error:
            assert "unreadable" in str(error) or "not finite" in str(error)


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress])
def test_packed_files(pack, tmp_path):
    raw = content(fits.PrimaryHDU(FLOAT))
    assert np.array_equal(read_cutout(place(tmp_path, pack(raw), "x.fits.bz2")), FLOAT)
    in_two = pack(raw[:3000]) + pack(raw[3000:])
    assert np.array_equal(read_cutout(place(tmp_path, in_two, "x.fits.bz2")), FLOAT)
    with pytest.raises(BadFile, match="damaged"):
        read_cutout(place(tmp_path, pack(raw)[:-9]))
    with pytest.raises(BadFile, match="too large"):  # a bomb
        read_cutout(place(tmp_path, pack(raw + bytes(2**26))))


def test_a_last_block_cut_short_is_read_as_astropy_reads_it(tmp_path):
    for raw in (content(fits.PrimaryHDU(FLOAT)), content(EMPTY(), fits.ImageHDU(FLOAT)), TILES["RICE_1"]):
        with fits.open(io.BytesIO(raw), disable_image_compression=True) as hdus:
            end = hdus[-1].fileinfo()["datLoc"] + hdus[-1].size
        whole = read_cutout(place(tmp_path, raw))
        assert end < len(raw)
        assert np.array_equal(read_cutout(place(tmp_path, raw[:end])), whole)
        images, bad = read_cutouts([place(tmp_path, raw[:end]), place(tmp_path, raw, "y.fits")], (41, 41))
        assert not bad and np.array_equal(images[0], whole) and np.array_equal(images[1], whole)
        with pytest.raises(BadFile, match="truncated"):
            read_cutout(place(tmp_path, raw[: end - 1]))


@pytest.mark.parametrize(
    "name", ["MASK", "DQ", "WHT", "INVVAR", "ivar", "G_INVVAR", "MASK_1", "psf", "ERR", "SIGMA", "Variance"]
)
@pytest.mark.parametrize("kind", ["f4", "i4"])
def test_a_mask_is_never_the_image(name, kind, tmp_path):
    """Whatever comes first, and whatever a file of the same size taught before."""
    behind = content(EMPTY(), fits.ImageHDU(MASK.astype(kind), name=name), fits.ImageHDU(FLOAT, name="SCI"))
    alike = content(EMPTY(), fits.ImageHDU(FLOAT, name="SCI"), fits.ImageHDU(MASK.astype(kind), name=name))
    paths = [place(tmp_path, raw, f"{n}.fits") for n, raw in enumerate([alike, behind, alike, behind])]
    images, bad = read_cutouts(paths, (41, 41))
    assert not bad and all(np.array_equal(image, FLOAT) for image in images)
    assert np.array_equal(read_cutout(paths[1]), FLOAT)
    alone = place(tmp_path, content(EMPTY(), fits.ImageHDU(MASK.astype(kind), name=name)), "alone.fits")
    with pytest.raises(BadFile, match=f"HDU 1 is called {name.upper()}, which is no image of the sky"):
        read_cutout(alone)


def test_integer_flags_before_an_image_are_not_the_image(tmp_path):
    flags = content(EMPTY(), fits.ImageHDU(MASK), fits.ImageHDU(FLOAT))
    assert np.array_equal(read_cutout(place(tmp_path, flags)), FLOAT)
    # counts are an image, whatever comes after them
    image = RNG.poisson(20, (41, 41)).astype("i4")
    counts = content(EMPTY(), fits.ImageHDU(image), fits.ImageHDU(FLOAT))
    assert np.array_equal(read_cutout(place(tmp_path, counts)), image)
    assert np.array_equal(read_cutout(place(tmp_path, content(fits.PrimaryHDU(MASK)))), MASK)


RNG = np.random.default_rng(5)


def test_names_of_hdus():
    assert all(map(shows_sky, ["", "SCI", "IMAGE", "G", "VIS", "NIR_Y", "F814W", "SCI1", "COMPRESSED_IMAGE"]))
    assert not any(map(shows_sky, ["mask", "DQ_1", "r-invvar", "WEIGHT", "SEGMAP", "MODEL", "CTX", "PSF_G"]))


def test_names_of_files():
    for name in ("a_g.fits", "a_g.FITS.gz", "a_g.fts", "a_g.fit.bz2", "a_g.fits.fz", "a_g.fz", "a_g.fts.gz"):
        assert parse_name(name) == ("a", "g"), name


def test_the_table_of_formats_is_whole():
    for row in reader.FORMATS:
        assert all(row) and all(isinstance(text, str) for text in row)
