"""data/cutouts/fits_blocks.py against read_cutout, file by file:
the same pixels to the bit, the same reasons.
"""

import os
import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cutouts import fits_blocks, fits_layout
from data.cutouts.fits import BadFile, read_cutout
from data.cutouts.fits_blocks import read_cutouts
from data.cutouts.fits_layout import BLOCK, CARD, END, find_image, say_the_same
from tests.data.cutouts.test_fits import FORMS, IMAGE, WRONG, content, place
from tests.data.cutouts.test_fits_layout import LEFT, TAKEN, extension, primary, with_card

SHAPE = (41, 41)
CORPUS = {
    **{name: make() for name, make in FORMS.items()},
    **{f"wrong_{name}": make() for name, (make, _) in WRONG.items() if name != "gz_bomb"},
    **TAKEN,
    **LEFT,
}
# Cards that are harmless by themselves, harmless only in their place, or not at all,
# and some that look like it.
HARMLESS = [
    b"OBJECT  = 'J1200+0012'",
    b"RA      =         150.11600000 / [deg]",
    b"DATE    = '2026-01-01T00:00:00' / it's made",
    b"HISTORY made by hand",
    b"COMMENT BSCALE  = 2",
    b"EXTEND  =                    T",
    b"FLAG    =                    F",
    b"NAXIS_X =                    7",
    b"NULL    =",
]
OTHERS = [
    b"",
    b"        and more",
    b"COMMENT The end is the END",
    b"OBJECT  = 'a      ' / END",
    b"OBJECT  = 'goes on&'",
    b"CONTINUE  'more'",
    b"END",
    b"END     junk",
    b"ND",
    b"D",
    b"BSCALE  =                  2.0",
    b"BZERO   =                    1",
    b"BLANK   =                    0",
    b"BITPIX  =                  -64",
    b"NAXIS   =                    2",
    b"NAXIS1  =                   41",
    b"NAXIS3  =                    7",
    b"EXTEND  =                    F",
    b"SIMPLE  =                    T",
    b"XTENSION= 'IMAGE   '",
    b"PCOUNT  =                    0",
    b"TFORM2  = '1681E   '",
    b"TTYPE1  = 'band_g  '",
    b"TDIM2   = '(41,41)'",
    b"TUNIT1  = 'nJy     '",
    b"TSCAL2  =                  2.0",
    b"TNULL1  =                    0",
    b"ZIMAGE  =                    T",
    b"GROUPS  =                    T",
    b"HIERARCH BSCALE = 2.0",
    b"bscale  =                  2.0",
    b" BSCALE =                  2.0",
    b"BSCALE= 2.0",
    b"OBJECT  = 'unclosed",
    b"OBJECT  = 'na\x07e'",
    b"A       = 1\nBSCALE  = 2",
    b"A       = 1\nB       = 'c&'\nCONTINUE  'd'",
    b"A       = 1\nCOMMENT",
    b"\n",
    b"OBJECT  = 'a'\n\nEND",
]
HEADERS = {
    "primary": primary(IMAGE.astype("f4"), OBJECT="J0900", HISTORY=["one", "the END"], RA=1.5),
    "extension": extension(IMAGE.astype("f4"), OBJECT="J0900", EXPTIME=3.0),
    "challenge": TAKEN["challenge"],
    "blank_cards": with_card(primary(IMAGE, OBJECT="J0900"), b""),
    "long_text": TAKEN["long_text"],
    "three_blocks": TAKEN["three_blocks"],
}


@pytest.fixture(autouse=True)
def nothing_known():
    fits_layout.KNOWN.clear()


def one_by_one(paths, shape=SHAPE, finite=True):
    images, reasons = np.zeros((len(paths), *shape), np.float32), {}
    for row, path in enumerate(paths):
        try:
            images[row] = read_cutout(path, shape, finite)
        except BadFile as error:
            reasons[row] = str(error)
    return images, reasons


def assert_same(paths, shape=SHAPE, finite=True):
    images, reasons = read_cutouts(paths, shape, finite)
    expected, why = one_by_one(paths, shape, finite)
    assert (images.dtype, images.shape, images.flags.c_contiguous) == (np.float32, (len(paths), *shape), True)
    assert list(reasons.items()) == list(why.items())
    assert images.tobytes() == expected.tobytes()
    return reasons


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    paths = [place(folder, raw, f"{name}.fits") for name, raw in CORPUS.items()]
    os.mkfifo(folder / "pipe.fits")
    (folder / "folder.fits").mkdir()
    (folder / "no_right.fits").symlink_to(folder / "no_right.fits")
    return [
        *paths,
        folder / "pipe.fits",
        folder / "folder.fits",
        folder / "no_right.fits",
        folder / "gone.fits",
        "/dev/zero",
        str(paths[0]),
    ]


@pytest.mark.parametrize("at_once", [1, 2, 7, 57])
@pytest.mark.parametrize("finite", [True, False])
def test_a_block_of_every_form_is_as_one_file_after_another(at_once, finite, corpus, monkeypatch):
    monkeypatch.setattr(fits_blocks, "BUFFER", at_once * (8 * 41 * 41 + fits_blocks.HEADERS))
    paths = corpus * 2
    for _ in range(2):  # as they come, and in no order
        reasons = assert_same(paths, finite=finite)
        assert 50 < len(reasons) < len(paths) - 50
        random.Random(at_once).shuffle(paths)


@pytest.mark.parametrize(
    "shape", [(41, 41), (3, 24, 25), (1681,), (1, 1681), (40, 41), (600, 600), (), (0, 41)]
)
def test_any_geometry(shape, corpus):
    assert_same(corpus, shape)


def test_geometries_too_large_for_the_buffer(tmp_path):
    images = np.random.default_rng(2).normal(size=(3, 600, 600))
    paths = [
        place(tmp_path, content(fits.PrimaryHDU(image)), f"{number}.fits")
        for number, image in enumerate(images)
    ]
    assert not assert_same(paths, (600, 600))


@pytest.mark.parametrize("count", [0, 1, 2, 56, 57, 58, 200])
def test_blocks_of_any_number_of_files(count, tmp_path):
    paths = [place(tmp_path, primary(IMAGE + number), f"{number}.fits") for number in range(count)]
    assert not assert_same(paths)


SPOIL = st.tuples(
    st.sampled_from(sorted(HEADERS)),
    st.lists(st.tuples(st.integers(0, 7 * BLOCK), st.binary(min_size=1, max_size=3)), max_size=2),
    st.lists(st.tuples(st.integers(0, 80), st.sampled_from(HARMLESS + OTHERS)), max_size=3),
    st.sampled_from([None, None, None, -1, 5000]),
)


def spoiled(name, changes, cards, cut):
    raw = bytearray(HEADERS[name])
    for at, what in [*((at * CARD, card.ljust(CARD)) for at, card in cards), *changes]:
        raw[at : at + len(what)] = what
    return bytes(raw[:cut])


@settings(max_examples=150, deadline=None)
@given(st.lists(SPOIL, max_size=12), st.booleans())
def test_spoiled_files_among_sound_ones(spoils, finite):
    with tempfile.TemporaryDirectory() as folder:
        raws = [HEADERS[spoil[0]] for spoil in spoils] + [spoiled(*spoil) for spoil in spoils]
        paths = [place(Path(folder), raw, f"{number}.fits") for number, raw in enumerate(raws)]
        fits_layout.KNOWN.clear()
        assert_same(paths, finite=finite)
        assert_same(paths[::-1], finite=finite)


def assert_as_strict(known, raws):
    """Whatever is said to be as the known headers are, is found to be so by the careful reader. Returns:
    how many are.
    """
    headers, layout = known
    same = say_the_same(np.array([np.frombuffer(raw, np.uint8, len(headers)) for raw in raws]), headers)
    for raw in (raw for raw, one in zip(raws, same) if one):
        assert find_image(raw, SHAPE) == (raw[: len(headers)], layout)
    return np.count_nonzero(same)


def with_cards(raw, at, *cards):
    text = b"".join(card.ljust(CARD) for card in cards)
    return raw[:at] + text + raw[at + len(text) :]


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_only_said_to_be_the_same_where_the_careful_reader_finds_it(name):
    raw = HEADERS[name]
    known = find_image(raw, SHAPE)
    places = [at for at in range(0, len(known[0]), CARD)]
    for at in places:
        assert_as_strict(known, [with_cards(raw, at, card) for card in HARMLESS + OTHERS])
    for at in places[:-1][-40:]:  # a card and the one after it
        assert_as_strict(
            known,
            [
                with_cards(raw, at, one, other)
                for one in OTHERS + HARMLESS[:3]
                for other in OTHERS + HARMLESS[:3]
            ],
        )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(HEADERS)), st.data())
def test_headers_with_any_bytes_in_them(name, data):
    known, raw = find_image(HEADERS[name], SHAPE), HEADERS[name]
    places = st.integers(0, len(known[0]) - 4)
    spoils = data.draw(
        st.lists(st.tuples(places, st.text("END =&'/T1x\n", min_size=1, max_size=4)), min_size=1, max_size=4)
    )
    raws = [raw[:at] + what.encode() + raw[at + len(what) :] for at, what in spoils]
    assert_as_strict(known, raws)


def test_headers_of_their_own_are_read_with_the_others(tmp_path, monkeypatch):
    """What differs from file to file in surveys: names, places, dates.
    One file is looked at with care, for all.
    """
    cards = [
        {
            "OBJECT": f"J{n:04d}",
            "RA": n / 7,
            "DEC": (-n / 3, "[deg] it's north"),
            "FILTER": "gri"[n % 3],
            "HISTORY": f"cut out of {n}.fits",
        }
        for n in range(150)
    ]
    paths = [place(tmp_path, primary(IMAGE + n, **own), f"{n}.fits") for n, own in enumerate(cards)]
    careful = []
    monkeypatch.setattr(
        fits_layout, "find_image", lambda raw, shape: careful.append(raw) or find_image(raw, shape)
    )
    images, reasons = read_cutouts(paths, SHAPE)
    assert len(careful) == 1 and not reasons
    assert images.tobytes() == b"".join((IMAGE + n).astype("f4").tobytes() for n in range(150))


@pytest.mark.parametrize("card", HARMLESS)
def test_a_harmless_card_is_passed_over(card):
    raw = HEADERS["primary"]
    assert assert_as_strict(find_image(raw, SHAPE), [with_cards(raw, raw.index(b"OBJECT  ="), card)]) == 1


def test_trouble_of_the_machine_is_raised_and_no_file_stays_open(corpus, monkeypatch):
    open_files = len(os.listdir("/proc/self/fd"))
    read_cutouts(corpus, SHAPE)
    assert len(os.listdir("/proc/self/fd")) == open_files

    def stale(*_):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("os.readv", stale)
        assert_same(corpus)  # one by one they can be read
        patch.setattr("os.read", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            read_cutouts(corpus, SHAPE)
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_large_files_take_no_memory(tmp_path):
    for number, size in enumerate([2**27, 2**27, 2**40]):
        path = place(tmp_path, primary(), f"{number}.fits")
        os.truncate(path, size)
    paths = [tmp_path / f"{number}.fits" for number in range(3)] * 20
    read_cutouts(paths[:1], SHAPE)
    tracemalloc.start()
    _, reasons = read_cutouts(paths, SHAPE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(reasons) == 60 and "too large" in reasons[7]
    assert peak < fits_blocks.BUFFER + 60 * IMAGE.size * 4 + 2**17


def test_END_is_where_it_was():
    """The reason why cards that end like a header, or begin with blanks, are not passed over."""
    raw = HEADERS["primary"]
    at = raw.index(b"HISTORY the END")
    assert raw.find(END) > at
    spoilt = with_cards(raw, at, b"HISTORY the END", b"        x".rjust(CARD))
    assert assert_as_strict(find_image(raw, SHAPE), [spoilt]) == 0
