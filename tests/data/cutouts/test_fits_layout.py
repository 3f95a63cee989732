"""data/cutouts/fits_layout.py against the astropy path, to the bit, on files of every kind,
sound and spoiled; what it takes and what it leaves.
"""

import gzip
import io
import warnings

import numpy as np
import pytest
from astropy.io import fits

from data.cutouts import fits as reader, fits_layout
from data.cutouts.fits import BadFile, fits_bytes, read_cutout
from data.cutouts.fits_layout import BLOCK, plain_pixels
from tests.data.cutouts.test_fits import (
    EMPTY,
    FORMS,
    IMAGE,
    OBLONG,
    WRONG,
    content,
    from_cards,
    of_scaled,
    place,
    table,
    vector,
)
from tests.conftest import ROOT

KINDS = {"B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8"}
LARGE = IMAGE * 50 + 100


def primary(array=IMAGE, **cards):
    return content(fits.PrimaryHDU(array, header(**cards) if cards else None))


def extension(array=IMAGE, *others, **cards):
    return content(EMPTY(), fits.ImageHDU(array, header(**cards)), *others)


def header(**cards):
    made = fits.Header()
    for name, value in cards.items():
        for one in value if isinstance(value, list) else [value]:
            made.append((name, *one) if isinstance(one, tuple) else (name, one), end=True)
    return made


def in_table(*columns, **cards):
    return content(EMPTY(), fits.BinTableHDU.from_columns(list(columns), header(**cards)))


def scalar(name, form, value=1, **options):
    return fits.Column(name, form, array=np.array([value]), **options)


def with_card(raw, text, before=b"END" + b" " * 77, start=0):
    """The file with one more card before another one; the header must have room in its block."""
    at = raw.index(before, start)
    block = raw[at // BLOCK * BLOCK :][:BLOCK]
    at -= at // BLOCK * BLOCK
    spoiled = (block[:at] + text.ljust(80) + block[at:]).rstrip(b" ").ljust(BLOCK)
    return raw.replace(block, spoiled, 1)


def in_extension(raw, text, before=b"END" + b" " * 77):
    return with_card(raw, text, before, BLOCK)


BAND = in_table(scalar("id", "24A", "x"), vector("band_g", "D"))
SCALARS = [scalar(f"s{letter}", letter) for letter in "LBIJKEDCM"]

# name: (file, whether our own reader takes it). Whether it can be read at all is for astropy to say.
TAKEN = {
    **{f"primary_{kind}": primary(LARGE.astype(kind)) for kind in KINDS.values()},
    **{f"extension_{kind}": extension(LARGE.astype(kind)) for kind in KINDS.values()},
    **{
        f"1681{letter}": in_table(vector("image", letter, LARGE.astype(kind), None))
        for letter, kind in KINDS.items()
    },
    **{
        f"1681{letter}_TDIM": in_table(vector("image", letter, LARGE.astype(kind)))
        for letter, kind in KINDS.items()
    },
    "challenge": BAND,
    "scalars_before": in_table(*SCALARS, vector("image", "E")),
    "scalars_after": in_table(vector("image", "E"), *SCALARS),
    "text_of_many_axes": in_table(
        fits.Column("names", "24A", dim="(8,3)", array=np.array([["a", "b", "c"]])), vector("image", "E")
    ),
    "two_vectors_the_first_counts": in_table(vector("one", "E"), vector("two", "E", IMAGE + 1)),
    "named_image_before_others": in_table(vector("one", "E"), vector("Image", "E", IMAGE + 1)),
    "band_before_image": in_table(vector("image", "E"), vector("BAND_y", "D", IMAGE + 1)),
    "unit": in_table(fits.Column("image", "1681E", unit="nJy", array=IMAGE.reshape(1, -1))),
    "gzip": gzip.compress(primary()),
    "gzip_of_two_members": gzip.compress(BAND[:5000]) + gzip.compress(BAND[5000:]),
    "comments": primary(COMMENT=["one", "two"], HISTORY=["= 3", "BSCALE  = 2"], OBJECT="J1"),
    "blank_cards": with_card(primary(), b"", b"EXTEND"),
    "three_blocks": primary(HISTORY=["x" * 70] * 90),
    "table_of_four_blocks": in_table(vector("image", "D"), **{f"KEY{n}": n for n in range(120)}),
    "long_text": primary(LONGTEXT="much text " * 30, AFTER=1),
    "long_text_with_comment": primary(
        LONGTEXT=("much & more " * 12, "and a comment that is itself as long as a card can be, at least")
    ),
    "quotes": primary(OBJECT="it's 'quoted'", OTHER="''"),
    "numbers": primary(RA=150.1234567890123, DEC=-2e-7, EXPTIME=1e30, COUNT=-7, FLAG=False, Z=1 + 2j),
    "no_value": primary(OBJECT=None),
    "FORTRAN_exponent": with_card(primary(), b"EXPTIME =            1.5D+03 / s", b"EXTEND"),
    "wcs": primary(
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CRPIX1=21.0,
        CRPIX2=21.0,
        CD1_1=-5.6e-5,
        CD2_2=5.6e-5,
        EQUINOX=2000.0,
    ),
    "the_same_card_twice": with_card(primary(OBJECT="a"), b"OBJECT  = 'b       '", b"OBJECT"),
    "no_EXTEND": primary().replace(b"EXTEND  =                    T".ljust(80), b" " * 80),
    "checksums": (
        lambda s: (fits.HDUList([fits.PrimaryHDU(IMAGE)]).writeto(s, checksum=True), s.getvalue())[1]
    )(io.BytesIO()),
    "extension_with_a_name": content(EMPTY(), fits.ImageHDU(IMAGE, name="SCI", ver=2)),
    "extension_then_more": extension(IMAGE, fits.ImageHDU(IMAGE + 1), fits.ImageHDU(np.ones((9, 9)))),
    "extension_then_junk": extension() + b"junk" * 1000,
    "table_then_table": content(EMPTY(), table(vector("image", "E")), table(vector("image", "E", IMAGE + 1))),
    "padding_that_is_not_zero": primary()[: BLOCK + 8 * 1681] + b"\xff" * (-8 * 1681 % BLOCK),
    "nan": primary(np.where(IMAGE > 1, np.nan, IMAGE)),
    "nan_float32": primary(np.where(IMAGE > 1, np.nan, IMAGE).astype("f4")),
    "infinite": in_table(vector("image", "D", np.where(IMAGE > 1, -np.inf, IMAGE))),
    "beyond_float32": primary(IMAGE * 1e60),
    "large_float32": primary((IMAGE * 1e37).astype("f4")),  # finite, and its squares are not
    "denormal_and_minus_zero": primary(np.where(IMAGE > 0, -0.0, IMAGE * 1e-43)),
    "odd_nan": primary((np.arange(1681, dtype=">u4").reshape(41, 41) + 0x7F800001).view(">f4")),
}
LEFT = {
    **{f"unsigned_{kind}": primary(LARGE.clip(0).astype(kind)) for kind in ("u2", "u4", "u8")},
    "signed_byte": primary(IMAGE.astype("i1")),
    **{f"scaled_{kind}": of_scaled(kind, 0.5, -3.0)[0] for kind in ("u1", "i2", "i4", "i8")},
    "scaled_float": with_card(primary(), b"BSCALE  =                  2.0", b"EXTEND"),
    "scaled_by_one": with_card(
        with_card(primary(), b"BSCALE  =                  1.0", b"EXTEND"),
        b"BZERO   =                  0.0",
        b"EXTEND",
    ),
    "blank_value": with_card(primary(LARGE.astype("i2")), b"BLANK   =                  100", b"EXTEND"),
    "unsigned_column": in_table(
        fits.Column("image", "1681I", bzero=32768, array=LARGE.clip(0).astype("u2").reshape(1, -1))
    ),
    "scaled_column": in_extension(BAND, b"TSCAL2  =                  0.5", b"TFORM2"),
    "null_column": in_table(fits.Column("image", "1681J", null=7, array=LARGE.astype("i4").reshape(1, -1))),
    "displayed_column": in_table(fits.Column("image", "1681E", disp="F8.3", array=IMAGE.reshape(1, -1))),
    "bits_beside": in_table(
        fits.Column("flags", "11X", array=np.ones((1, 11), dtype=bool)), vector("image", "E")
    ),
    "heap_beside": in_table(
        fits.Column("curve", "PE()", array=np.array([np.ones(5)], dtype=object)), vector("image", "E")
    ),
    "no_TTYPE": in_table(vector("image", "E")).replace(b"TTYPE1  = 'image   '", b"OBJECT  = 'image   '"),
    "the_same_name_twice": in_table(vector("one", "E"), vector("other", "E")).replace(
        b"'other   '", b"'ONE     '"
    ),
    "TFORM_twice": in_extension(BAND, b"TFORM2  = '1681D   '", b"TDIM2"),
    "TFORM_that_goes_on": in_extension(BAND, b"CONTINUE  'more'", b"TDIM2"),
    "hierarch": primary(**{"HIERARCH ESO DET GAIN": 2.0}),
    "hierarch_scale": with_card(primary(), b"HIERARCH BSCALE = 2.0", b"EXTEND"),
    "CONTINUE_of_nothing": with_card(primary(), b"CONTINUE  'more'", b"EXTEND"),
    "EXTEND_is_false_and_more": (primary() + extension()[BLOCK:]).replace(
        b"EXTEND  =                    T", b"EXTEND  =                    F"
    ),
    "EXTEND_is_nonsense": primary().replace(
        b"EXTEND  =                    T", b"EXTEND  =                maybe"
    ),
    "primary_then_more": content(fits.PrimaryHDU(IMAGE), fits.ImageHDU(IMAGE + 1)),
    "primary_then_junk": primary() + b"junk" * 1000,
    "primary_then_half_a_block": primary() + bytes(1000),
    "no_EXTEND_then_half_an_extension": primary().replace(
        b"EXTEND  =                    T".ljust(80), b" " * 80
    )
    + extension()[BLOCK : 2 * BLOCK + 100],
    "no_padding": primary()[: BLOCK + 8 * 1681],
    "table_without_padding": BAND[: 2 * BLOCK + 8 * 1681 + 24],
    "header_of_twenty_blocks": primary(HISTORY=["x" * 70] * 700),
    "free_format": primary().replace(b"NAXIS1  =                   41", b"NAXIS1  = 41                  "),
    "leading_zero": primary().replace(b"NAXIS1  =                   41", b"NAXIS1  =                  041"),
    "float_axis": primary().replace(b"NAXIS1  =                   41", b"NAXIS1  =                 41.0"),
    "small_letters": with_card(primary(), b"bscale  =                  2.0", b"EXTEND"),
    "shifted_keyword": with_card(primary(), b" BSCALE =                  2.0", b"EXTEND"),
    "equals_too_early": with_card(primary(), b"BSCALE= 2.0", b"EXTEND"),
    "unclosed_text": with_card(primary(), b"OBJECT  = 'unclosed", b"EXTEND"),
    "control_character": primary(OBJECT="name").replace(b"'name", b"'na\x07e"),
    "not_ascii": primary(OBJECT="name").replace(b"'name", b"'na\xe9e"),
    "something_after_END": primary().replace(b"END".ljust(200), b"END".ljust(190) + b"x".ljust(10)),
    "END_with_junk_before": with_card(primary(), b"END     junk", b"EXTEND"),
    "cards_out_of_order": primary()
    .replace(b"NAXIS1 ", b"NAXISx ")
    .replace(b"NAXIS2 ", b"NAXIS1 ")
    .replace(b"NAXISx ", b"NAXIS2 "),
    "comment_between_axes": with_card(primary(), b"COMMENT between", b"NAXIS2"),
    "third_axis_undeclared": with_card(primary(), b"NAXIS3  =                    7", b"EXTEND"),
    "two_groups": extension().replace(b"GCOUNT  =                    1", b"GCOUNT  =                    2"),
    "with_a_heap": BAND.replace(b"PCOUNT  =                    0", b"PCOUNT  =                  100"),
    "row_that_is_longer": BAND.replace(b"=                13472", b"=                13473"),
    "not_simple": primary().replace(b"SIMPLE  =                    T", b"SIMPLE  =                    F"),
    "unknown_extension": extension().replace(b"'IMAGE   '", b"'FOREIGN '"),
    "old_table": BAND.replace(b"'BINTABLE'", b"'A3DTABLE'"),
    "BITPIX_of_nothing": primary().replace(
        b"BITPIX  =                  -64", b"BITPIX  =                  -63"
    ),
    "random_groups_card": with_card(primary(), b"GROUPS  =                    T", b"EXTEND"),
    "catalogue_then_image": FORMS["catalogue_then_image"](),
}


def outcome(path, shape=(41, 41), finite=True):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing may get out
        try:
            pixels = read_cutout(path, shape, finite)
        except BadFile as error:
            return str(error)
    return pixels.shape, pixels.dtype.str, pixels.flags.c_contiguous, pixels.tobytes()


@pytest.mark.parametrize("name", [*TAKEN, *LEFT, *sorted(WRONG.keys() - {"gz_bomb"})])
def test_the_outcome_is_that_of_astropy_to_the_bit(name, tmp_path, monkeypatch):
    raw = TAKEN.get(name) or LEFT.get(name)
    path = place(tmp_path, WRONG[name][0]() if raw is None else raw)
    found = [outcome(path, finite=finite) for finite in (True, False, True)]
    if name in TAKEN:
        assert plain_pixels(fits_bytes(path, 2**26), (41, 41)) is not None
    elif name in LEFT:
        assert plain_pixels(fits_bytes(path, 2**26), (41, 41)) is None
    monkeypatch.setattr(reader, "plain_pixels", lambda raw, shape: None)
    assert found == [outcome(path, finite=finite) for finite in (True, False, True)]


@pytest.mark.parametrize(
    "shape",
    [
        (41, 41),
        (3, 24, 25),
        (1681,),
        (1, 1681),
        (1681, 1),
        (40, 41),
        (41, 41, 1),
        (),
        (0, 41),
        (-41, -41),
        None,
    ],
)
def test_a_geometry_is_taken_or_refused_as_by_astropy(shape, tmp_path, monkeypatch):
    images = [IMAGE, OBLONG, IMAGE.reshape(1, 1681), IMAGE.ravel()]
    made = [content(fits.PrimaryHDU(image)) for image in images] + [extension(image) for image in images]
    made += [
        in_table(vector("image", "E", image, "(" + ",".join(map(str, image.shape[::-1])) + ")"))
        for image in images[:3]
    ]
    made += [in_table(vector("image", "E", dim=None)), content(EMPTY()), extension(None)]
    paths = [place(tmp_path, raw, f"{number}.fits") for number, raw in enumerate(made)]
    found = [outcome(path, shape) for path in paths]
    monkeypatch.setattr(reader, "plain_pixels", lambda raw, shape: None)
    assert found == [outcome(path, shape) for path in paths]
    assert shape not in [(41, 41), (3, 24, 25)] or sum(type(one) is tuple for one in found) > 2


def test_what_is_remembered_of_one_file_is_not_believed_of_another(tmp_path):
    """Files of one size that differ in one byte of the header, read one after the other."""
    good = primary(IMAGE.astype("f4"))
    for _ in range(3):
        np.testing.assert_array_equal(read_cutout(place(tmp_path, good)), IMAGE.astype("f4"))
        for old, new in [(b"-32", b" 32"), (b"41", b"40"), (b"SIMPLE  =", b"SIMPLE   ")]:
            path = place(tmp_path, good.replace(old, new, 1))
            assert outcome(path, finite=False) != outcome(place(tmp_path, good, "good.fits"), finite=False)
    assert len(fits_layout.KNOWN) <= 16


def test_files_of_changing_size_are_read_whole(tmp_path):
    """The size of one file is a guess for the next."""
    larger = content(EMPTY(), fits.ImageHDU(IMAGE), fits.ImageHDU(np.zeros((99, 99))))
    for raw in [larger, primary(), BAND, primary(), BAND[:-1], larger, primary()[:-1], BAND, b"", primary()]:
        path = place(tmp_path, raw)
        assert (fits_bytes(path, 2**26) if raw else raw) == raw
    with pytest.raises(BadFile, match="too large"):
        fits_bytes(place(tmp_path, primary()), 100)


@pytest.mark.parametrize("form", ["primary_f4", "extension_f8", "challenge", "table_of_four_blocks"])
def test_a_cut_file_is_refused_wherever_it_is_cut(form, tmp_path):
    raw = TAKEN[form]
    with fits.open(io.BytesIO(raw)) as hdus:
        end = hdus[-1].fileinfo()["datLoc"] + hdus[-1].size
    for size in [*range(0, len(raw), 997), end - 1, end, len(raw) - 1]:
        assert plain_pixels(raw[:size], (41, 41)) is None
        found = outcome(place(tmp_path, raw[:size]))
        if size < end:
            assert type(found) is str
        else:  # the last block alone is not full: read as astropy reads it
            assert found == outcome(place(tmp_path, raw))


def test_a_giant_header_is_left_alone_at_once():
    giant = from_cards(
        [("SIMPLE", f"{'T':>20}"), ("BITPIX", -64), ("NAXIS", 2), ("NAXIS1", 2**62), ("NAXIS2", 2**62)],
        bytes(14400),
    )
    assert plain_pixels(giant, (41, 41)) is None
    assert plain_pixels(giant, (2**62, 2**62)) is None  # the file is smaller
    assert plain_pixels(b"SIMPLE  =".ljust(2**22), (41, 41)) is None


@pytest.mark.filterwarnings("ignore")
def test_spoiled_files(tmp_path, monkeypatch):
    """A part of benchmarks/fuzz_fits.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fuzz_fits

    done, wrong, _ = fuzz_fits.fuzz(400, 12, str(tmp_path))
    wrong.pop("hangs", None)  # no test depends on time
    assert not wrong
    assert sum(count for (_, who), count in done.items() if who == "own") > 30
    assert sum(done.values()) == 400
