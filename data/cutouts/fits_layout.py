"""Where the pixels lie in a FITS file of a plain form, found without astropy and some fifty times as fast.

Three forms are plain: an image in the primary HDU, an image in the extension after an empty primary HDU, a
table of one row there with a vector column, as the strong-lens challenge has them. Nothing is guessed, mended
or refused here: a file with anything doubtful in it is left to astropy. What is taken has the very pixels
that astropy gives.
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK, CARD = 2880, 80
END = b"END".ljust(CARD)
LONGEST = 16 * BLOCK  # bytes of a header that is still read here


def _head(name: bytes, value: int) -> bytes:
    """A card up to column 30, where the fixed format of numbers ends:
    mandatory cards are compared, not parsed.
    """
    return b"%-8s= %20d" % (name, value)


PRIMARY = b"SIMPLE  =".ljust(29) + b"T"
IMAGE = b"XTENSION= 'IMAGE   '".ljust(30)
TABLE = b"XTENSION= 'BINTABLE'".ljust(30)
NO_AXIS = _head(b"NAXIS", 0)
ONE_GROUP = [_head(b"PCOUNT", 0), _head(b"GCOUNT", 1)]
PIXELS = {
    _head(b"BITPIX", number): np.dtype(kind)
    for number, kind in {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}.items()
}
# By the letter of TFORM: pixels, and the bytes of one element of any column of fixed length that fills whole
# bytes.
COLUMNS = {
    letter: np.dtype(kind) for letter, kind in zip((b"B", b"I", b"J", b"K", b"E", b"D"), PIXELS.values())
}
WIDTH = {letter: dtype.itemsize for letter, dtype in COLUMNS.items()} | {b"L": 1, b"A": 1, b"C": 8, b"M": 16}

# The standard's form of a value and of its comment. Possessive (*+):
# what does not fit is not tried in other ways.
NUMBER = rb"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[ED][+-]?\d++)?+"
TEXT = rb"'[ -&(-~]*+(?:''[ -&(-~]*+)*+'"
COMMENT = rb" *+(?:/[ -~]*+)?+"
VALUE = rb"(?:%b|[TF]|%b|\( *%b *, *%b *\))?+%b" % (TEXT, NUMBER, NUMBER, NUMBER, COMMENT)
# A text over several cards: only after &, because astropy joins CONTINUE to whatever stands before it.
LONG_TEXT = rb"(?:%b(?<=&')%b\nCONTINUE  *+)++%b%b" % (TEXT, COMMENT, TEXT, COMMENT)
# Cards that say something of the pixels or of their place, in astropy's understanding;
# EXTEND is T or not there.
DOUBTFUL = (
    rb"(?:SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|END|HIERARCH|CONTINUE|"
    rb"BSCALE|BZERO|BLANK|TFIELDS|THEAP|ZIMAGE"
    rb"|(?:TNULL|TSCAL|TZERO|TDISP|TBCOL|TCTYP|TCUNI|TCRPX|TCRVL|TCDLT|TRPOS)\d+) *=|EXTEND  =(?! {20}T)"
)
HARMLESS = re.compile(
    rb"(?m)(?>(?!%b)(?:(?:COMMENT |HISTORY | {8})[ -~]{72}|[A-Z0-9_-]++ *+(?<=^.{8})=  *+(?:%b|%b))\n)*+"
    % (DOUBTFUL, LONG_TEXT, VALUE)
)  # cards, one a line: well-formed, and none is doubtful
# ... and harmless whatever stands before and after them: none goes on in the next, describes a column, or
# says what the HDU is.
# Where one that ends like a header meets blanks, an END could be found;
# no card that is taken here begins with blanks.
ALONE = re.compile(
    rb"(?m)(?>(?!%b|TTYPE|TFORM|TDIM|TUNIT|EXTNAME )"
    rb"(?:[A-Z0-9_-]++ *+(?<=^.{8})=  *+%b|(?:COMMENT |HISTORY )[ -~]{72})\n)*+" % (DOUBTFUL, VALUE)
)
ENDS = re.compile(rb"END *\n")
TAIL = re.compile(COMMENT)
# from column 9; one that holds a quote or goes on is doubtful
STRING = re.compile(rb"= '([^ '&][^'&]*?) *'" + COMMENT)
FORMAT = re.compile(rb"([1-9]\d{0,8})?([LABIJKEDCM])")
EXTNAME = re.compile(rb"(?m)^EXTNAME =  *+'([^']*)'")
DIMENSIONS = re.compile(rb"\([1-9]\d{0,8}(?:,[1-9]\d{0,8})*\)")
BAND = re.compile(rb"band_\w+", re.IGNORECASE)


# What stands beside an image and is none of the sky, by EXTNAME: all of it, or a part (MASK_G, g_wht).
NO_SKY_NAMES = frozenset(
    "CTX CON COV COVERAGE SAMP TIME EXP EXPOSURE EXPTIME EXPMAP NEXP CHI2 SEG SEGM SEGMAP SEGMENTATION STD "
    "STDDEV SIG NOISE NOISEMAP MODEL APERTURE APERTURES BACKGROUND BKG KERNEL WCSCORR HDRLET D2IMARR "
    "WCSDVARR OVERSAMP".split()
)
NO_SKY_PARTS = frozenset(
    "MASK MASKS MSK BPM BADPIX DQ DQF FLAG FLAGS MASKBITS MASKEDBITS WHT WT WGT WEIGHT WEIGHTS INVVAR IVAR "
    "VAR VARIANCE ERR ERROR ERRORS UNC UNCERT UNCERTAINTY SIGMA RMS PSF PSFEX PRF".split()
)
PARTS = re.compile(r"[^A-Z0-9]+|(?<=[A-Z])(?=\d+$)")


def shows_sky(extname: str) -> bool:
    """Whether an HDU of this EXTNAME can be an image of the sky, and is not the mask, weight, error,
    point spread or model of one.
    """
    name = extname.strip().upper()
    parts = [part for part in PARTS.split(name) if part]
    return not (name in NO_SKY_NAMES or parts and parts[0] in NO_SKY_NAMES or NO_SKY_PARTS & {*parts})


class Layout(NamedTuple):
    """What a header says of the data after it."""

    size: int  # bytes of data, without the padding to a block
    dtype: np.dtype | None = None  # of the wanted pixels; None: the HDU is empty
    skip: int = 0  # bytes of data before the first of them


# (file's size, geometry): what find_image gave, 8 at most
KNOWN: dict[tuple[int, tuple[int, ...]], tuple[tuple[bytes, Layout], ...]] = {}


def plain_pixels(raw: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """The first image in a FITS file's bytes, if the file is of a plain form and whole,
    and the image has this geometry.

    Returns: [*shape] in the file's own type and byte order, which nothing scales, a view of `raw`; None for
        every other file, whether it can be read or not.
    Source: FITS Standard 4.0, sections 4.1 and 4.2 (cards), 4.4.1 (mandatory ones), 7.1 (IMAGE),
        7.3 (BINTABLE).
    """
    # Files of one origin mostly have the same headers, to the byte:
    # then what these were found to say holds again.
    known = KNOWN.get((len(raw), shape), ())
    for found in known:
        if raw.startswith(found[0]):
            break
    else:
        found = find_image(raw, shape)
        if found is None:
            return None
        if len(KNOWN) >= 16:
            KNOWN.clear()
        KNOWN[len(raw), shape] = (found, *known[:7])
    headers, layout = found
    return np.ndarray(shape, layout.dtype, raw, len(headers) + layout.skip)


def find_image(raw: bytes, shape: tuple[int, ...]) -> tuple[bytes, Layout] | None:
    """The headers as far as the image's data, and what they say:
    a function of themselves, the file's size and the geometry.
    """
    start = 0
    for keyword in (b"SIMPLE  ", b"XTENSION"):
        end = raw.find(END, start, start + LONGEST)
        if end < 0 or not raw.startswith(keyword, start):
            return None
        header = raw[start : start + padded(end + CARD - start)]
        layout = _layout(header, end - start, shape)
        if layout is None:
            return None
        start += len(header)
        left = len(raw) - start - padded(layout.size)
        if left < 0:
            return None
        if layout.dtype is not None:
            # Astropy may read on after an image in the primary HDU, and refuse the file for what it finds.
            # Integers before another HDU may be the flags of its pixels.
            alone = not left or keyword == b"XTENSION" and layout.dtype.kind == "f"
            return (raw[:start], layout) if alone else None
    return None


def say_the_same(headers: np.ndarray, known: bytes) -> np.ndarray:
    """Which headers differ from those that find_image took for a file of their size only in cards that it
    would pass over.

    headers: uint8 [n, bytes], as many bytes as are known. Returns: bool [n]; where True, find_image would
        find in the file what it found in the known one. It reads mandatory cards, those of columns, END with
        its blanks, and others, which must be HARMLESS and say nothing;
        where only such cards are replaced by such cards, it finds the same.
    """
    differ = headers.view(np.uint64) != np.frombuffer(known, np.uint64)
    same = np.ones(len(headers), bool)
    if not differ.any():
        return same
    cards = np.unique(np.flatnonzero(differ) // (CARD // 8))  # counted through all headers
    row, place = np.divmod(cards, len(known) // CARD)
    same[row[~_replaceable(known)[place]]] = False
    row, place = row[same[row]], place[same[row]]
    same[row[_not_alone(headers.reshape(len(headers), -1, CARD)[row, place])]] = False
    return same


@lru_cache(maxsize=128)
def _replaceable(headers: bytes) -> np.ndarray:
    """Which cards of headers that find_image took may be others, bool [cards]:
    none if a text may go on over several.
    """
    cards = np.frombuffer(headers, np.uint8).reshape(-1, CARD)
    found = np.full(len(cards), b"CONTINUE" not in headers)
    found[_not_alone(cards)] = False
    return found


def _not_alone(cards: np.ndarray) -> list[int]:
    """Which of these cards, uint8 [n, 80], are not harmless whatever stands before and after them."""
    lines = np.full((len(cards), CARD + 1), ord("\n"), np.uint8)
    lines[:, :CARD] = cards
    text = lines.tobytes()
    at = 0
    found = [end.start() // (CARD + 1) for end in ENDS.finditer(text)]
    while (at := ALONE.match(text, at).end()) < len(text):
        found.append(at // (CARD + 1))
        at = (found[-1] + 1) * (CARD + 1)
    return found


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _layout(header: bytes, end: int, shape: tuple[int, ...]) -> Layout | None:
    """Of a header in whole blocks whose END stands at byte `end`; None if anything in it is doubtful."""
    cards = [header[at : at + CARD] for at in range(0, end, CARD)]
    heads = [card[:30] for card in cards[:3]]
    blank = len(header) - end  # bytes from END on, which nothing may follow
    if (
        end % CARD
        or len(header) % BLOCK
        or header[end:] != b"END".ljust(blank)
        or len(heads) < 3
        or min(shape, default=0) < 1
    ):
        return None
    dtype = PIXELS.get(heads[1])
    axes = [
        _head(b"NAXIS", len(shape)),
        *(_head(b"NAXIS%d" % axis, side) for axis, side in enumerate(reversed(shape), 1)),
    ]
    if heads[0] == TABLE:
        mandatory, layout = _table(cards, shape)
    elif heads[0] == PRIMARY and heads[2] == NO_AXIS:
        mandatory = [PRIMARY, heads[1], NO_AXIS]
        layout = Layout(0)
    else:
        mandatory = (
            [PRIMARY, heads[1], *axes] if heads[0] == PRIMARY else [IMAGE, heads[1], *axes, *ONE_GROUP]
        )
        layout = Layout(math.prod(shape) * dtype.itemsize, dtype) if dtype is not None else None
    first, others = cards[: len(mandatory)], cards[len(mandatory) :]
    text = b"\n".join([*others, b""])
    fits = (
        [card[:30] for card in first] == mandatory
        and all(TAIL.fullmatch(card, 30) for card in first)
        and HARMLESS.fullmatch(text)
        and (b"EXTNAME" not in text or all(shows_sky(name.decode()) for name in EXTNAME.findall(text)))
    )
    return layout if dtype is not None and fits else None


class Column(NamedTuple):
    """A column of a table of one row."""

    letter: bytes  # of its TFORM
    count: int  # elements
    shape: tuple[int, ...] | None  # TDIM, slowest axis first
    skip: int  # bytes of the row before it


def _table(cards: list[bytes], shape: tuple[int, ...]) -> tuple[list[bytes], Layout | None]:
    """What the mandatory cards must say for the columns that are described, and where the image is:
    chosen as in fits.py.
    """
    columns, row = _columns(cards)
    bands = [column for name, column in columns.items() if BAND.fullmatch(name)]
    named = bands or [column for name, column in columns.items() if name == b"image"]
    sized = [
        column for column in columns.values() if column.letter in COLUMNS and column.count == math.prod(shape)
    ]
    image = next(iter(named + sized), None)
    if image not in sized or len(bands) > 1 or image.shape not in (None, shape):
        return [], None
    mandatory = [
        TABLE,
        _head(b"BITPIX", 8),
        _head(b"NAXIS", 2),
        _head(b"NAXIS1", row),
        _head(b"NAXIS2", 1),
        *ONE_GROUP,
        _head(b"TFIELDS", len(columns)),
    ]
    return mandatory, Layout(row, COLUMNS[image.letter], image.skip)


def _columns(cards: list[bytes]) -> tuple[dict[bytes, Column], int]:
    """The columns by name in lower case, and the bytes of a row;
    no columns if the description of one is doubtful.
    """
    describing = [card for card in cards if card.startswith((b"TTYPE", b"TFORM", b"TDIM", b"TUNIT"))]
    texts = {card[:8].rstrip(): text[1] for card in describing if (text := STRING.fullmatch(card, 8))}
    if len(texts) < len(describing):  # one is no plain string, or comes again
        return {}, 0
    columns = {}
    row = 0
    for number in range(1, len(describing) + 1):
        name, form, sides = (
            texts.get(keyword % number, b"") for keyword in (b"TTYPE%d", b"TFORM%d", b"TDIM%d")
        )
        if not form:
            break
        found = FORMAT.fullmatch(form)
        count = int(found[1] or 1) if found else 0
        shape = None
        if DIMENSIONS.fullmatch(sides):
            shape = tuple(map(int, sides[1:-1].split(b",")))[::-1]
        if (
            not found
            or not name
            or name.lower() in columns
            or (sides and (shape is None or math.prod(shape) != count))
        ):
            return {}, 0
        columns[name.lower()] = Column(found[2], count, shape, row)
        row += count * WIDTH[found[2]]
    return columns, row
