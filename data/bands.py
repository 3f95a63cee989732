"""What surveys and cameras call their bands, and the one short name that is meant.

A header's FILTER, an EXTNAME or the end of a file's name becomes the name that astronomers write: HSC-G is g,
`z DECam SDSS c0004 9260.0 1520.0` is z, NISP-Y is Y, f814w is F814W. Case matters: u g r i z y are those of
Sloan, Pan-STARRS and LSST, U B V R I those of Johnson and Cousins, Z Y J H K Ks of the near infrared; so Y of
DES and y of LSST are two bands. What is not in the table stays as it is written; `--band_alias THEIRS=OURS`
says more.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from utils.messages import first_of
from utils.mistake import Mistake

SLOAN = "ugrizy"
# effective wavelengths [nm], which set the order of bands; those of space telescopes follow from their names
WAVELENGTHS = {
    **dict(u=355, v=384, g=480, w=610, r=622, i=755, z=890, y=971),
    **dict(U=365, B=440, V=550, VR=630, G=640, R=660, VIS=715, I=800),
    **dict(Z=880, Y=1020, J=1250, NIR=1370, H=1640, Ks=2150, K=2200),
    **dict(FUV=154, UVW2=193, UVM2=225, NUV=230, UVW1=260),
    **dict(W1=3370, W2=4620, W3=12080, W4=22190),
    **dict(F146=1464, F158=1577, F184=1842, F213=2125),
}
ROMAN = "F062|F087|F106|F129|F146|F158|F184|F213"
SPACE = rf"[Ff][Qq]?\d{{3,4}}(?:[WMNXwmnx]2?|LP|lp)|[Gg]\d{{3}}[Ll]|{ROMAN}"  # HST, JWST, Roman
# of JWST; an HST filter has its wavelength in nm, or from F098M to F167N in units of 10 nm
JWST = set(
    "F182M F187N F200W F210M F212N F250M F277W F300M F322W2 F323N F335M F356W F360M F380M F405N F410M F430M "
    "F444W F460M F466N F470N F480M F560W F770W F1000W F1130W F1280W F1500W F1800W F2100W F2550W".split()
)
# Surveys and cameras in whose name a letter of either case is the one band of that letter that they have.
SLOANS = "sdss|ps1|panstarrs1?|pan-starrs1?|lsst|lsstcam|hsc|kids|omegacam|ocam|vst|ztf|skymapper"
SLOANS += "|cfht|cfhtls|megacam|megaprime|suprimecam|gpc1|bass|90prime"
DECAMS = "decam|decals|des|delve|mzls"  # of Y in the near infrared
SATELLITES = "euclid|swift|uvot|galex|unwise|allwise|neowise|wise"
CAMERAS = "hst|jwst|acs|wfc3|wfpc2|nicmos|nircam|niriss|miri|roman|wfi|wfc|uvis|ir"  # of SPACE
NEARS = "nisp|nir|euclid|vista|vircam|vhs|viking|ultravista|ukidss|ukirt|wfcam|2mass"

# What may stand after the last part of an object's name in a file's name: never an end that an id may have.
AT_END = "|".join(
    (
        rf"[{SLOAN}]",
        "[UBVRIZYJHK]",
        r"[Kk]s|K_s|VIS|vis|NIR|nir|NUV|nuv|FUV|fuv|UVW[12]|UVM2|W[1-4]|NB\d{3,4}",
        SPACE,
        r"[Hh][Ss][Cc]-[GRIZYgrizy]2?|HSC_[GRIZY]2?|NISP[-_.]?[YJH]|NIR[-_][YJH]|EUCLID[-_](?:VIS|[YJH])",
        rf"(?i:{SLOANS}|{DECAMS})[-.][{SLOAN}GRIZYU]",
        rf"[{SLOAN}Y][-_](?i:{SLOANS}|{DECAMS})",
        rf"[{SLOAN}w]\.00000|[ugriz]\.MP\d{{4}}",
    )
)
# Values of FILTER and its like, the first that matches, and the case in which its letter is meant.
PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), case)
    for pattern, case in (
        (r"(vr|y|n\d{3}) DECam\b.*", str.upper),
        (r"([ugriz]) DECam\b.*", str.lower),
        (rf"(?:{DECAMS})[ ._-]+(y)|(y)[ ._-]+(?:{DECAMS})", str.upper),
        (rf"(?:{SLOANS}|{DECAMS})[ ._-]+([{SLOAN}w])2?'?", str.lower),
        (rf"(?:(?:{SLOANS})[ ._-]+)?([{SLOAN}w])'?[ ._-]+(?:{SLOANS}|{DECAMS})", str.lower),
        (rf"([{SLOAN}w])\.00000", str.lower),
        (r"([ugriz])\.MP\d{4}", str.lower),
        (r"bok([gr])|(z)d", str.lower),  # of BASS and MzLS
        (r"(?:johnson|bess?ell?|cousins|jc|kc|harris)[ ._-]+([UBVRI])", str.upper),
        (r"([UBVRI])[ ._-]+(?:johnson|john|bess|bess?ell?|cousins|kc|harris|special|high)", str.upper),
        (rf"(?:{NEARS})[ ._-]+(z|y|j|h|k)|nisp([yjh])", str.upper),
        (r"([yjh])[ ._-]+(?:nisp|nir)", str.upper),
        (rf"(?:(?:{NEARS})[ ._-]+)?(?:ks|k_s|k_?short)", lambda _: "Ks"),
        (r"(?:euclid[ ._-]+)?vis", lambda _: "VIS"),
        (
            rf"(?:(?:{SATELLITES})[ ._-]+)?(nir|nuv|fuv|uvw[12]|uvm2|w[1-4])",
            str.upper,
        ),
        (
            rf"(?:(?:{CAMERAS})[ ._/-]+)*({SPACE})",
            str.upper,
        ),
        (r"(?:hsc[ _-]+)?(nb\d{3,4})", str.upper),
    )
]
# ... of which nothing may be in another case
EXACT = {
    **{f"{letter}'": letter for letter in SLOAN},
    **dict(up="u", gp="g", rp="r", ip="i", zp="z", zs="z", zg="g", zr="r", zi="i"),
    **{"W-J-B": "B", "W-J-V": "V", "W-C-RC": "R", "W-C-IC": "I"},
    **{f"W-S-{letter.upper()}+": letter for letter in "griz"},
    **{"I_E": "VIS", "IE": "VIS", "Y_E": "Y", "YE": "Y", "J_E": "J", "JE": "J", "H_E": "H", "HE": "H"},
}
PHYSICAL = re.compile(rf"([{SLOAN}])_\d{{2}}")  # of LSST's cameras: r_57
NO_FILTER = re.compile(r"(clear\w*|open|n/?a|none|null|empty|blank|unknown|undefined|-+|\.)?", re.IGNORECASE)
NAMED = re.compile(AT_END)
# of an EXTNAME: what says that it is the image of the band and not its error or mask
IMAGE_OF = re.compile(
    r"(?:(?:sci|science|image|img|data|flux|coadd|stack)[ ._,-]+)?(?P<band>.+?)"
    r"(?:[ ._,-]+(?:sci|science|image|img|data|flux|coadd|stack))?",
    re.IGNORECASE,
)
ALIAS = re.compile(r"[A-Za-z0-9][\w.'+*-]*")


@lru_cache(maxsize=4096)
def usual_name(text: str) -> str:
    """What a band is called that a header or a name writes like this; `text` itself where the table does not
    know it, "" for no filter at all (CLEAR).
    """
    text = text.strip()
    if text in EXACT:
        return EXACT[text]
    if NO_FILTER.fullmatch(text):
        return ""
    # two wheels of a camera: one of them is open
    wheels = [part.strip() for part in re.split(r"[;,+/]|-(?=CLEAR)|(?<=CLEAR)-", text)]
    used = [part for part in wheels if not NO_FILTER.fullmatch(part)]
    if len(used) < len(wheels) and len(used) <= 1:
        text = used[0] if used else ""
    if len(text) <= 1 or text in WAVELENGTHS:
        return text
    for pattern, case in PATTERNS:
        if found := pattern.fullmatch(text):
            return case(next(filter(None, found.groups()), ""))
    found = PHYSICAL.fullmatch(text)
    return found[1] if found else text


def is_band(text: str) -> bool:
    """Whether this is a usual name of a band, in the case in which it is written."""
    return NAMED.fullmatch(text) is not None or text in WAVELENGTHS


def wavelength(band: str) -> float:
    """Effective wavelength [nm]; infinite where it is not known."""
    if band in WAVELENGTHS:
        return WAVELENGTHS[band]
    name = band.upper()
    if re.fullmatch(SPACE, name):
        number = int(re.sub(r"\D.*", "", name.lstrip("FGQ")))
        in_tens = name in JWST or name.startswith("F") and number < 200 and len(name) > 3
        return number * 10 if in_tens else number
    return int(name[2:]) if re.fullmatch(r"NB\d{3,4}", name) else float("inf")


# ---- what a person says


def read_aliases(pairs: Sequence[str]) -> dict[str, str]:
    """`["HSC-G=g", "VIS=i"]` -> {"HSC-G": "g", "VIS": "i"}: the band as files or a store name it,
    and its name here. Raises: Mistake.
    """
    aliases: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not (equals and theirs and ALIAS.fullmatch(ours)):
            raise Mistake(
                f"--band_alias: got {pair!r}, expected THEIRS=OURS, such as HSC-G=g: a band as the files "
                "name it, and its name here (letters, digits, - _ . ' +)"
            )
        if aliases.setdefault(theirs, ours) != ours:
            raise Mistake(
                f"--band_alias: {theirs!r} is to be {aliases[theirs]!r} and {ours!r}: give one of them"
            )
    return aliases


def band_called(written: str, aliases: Mapping[str, str]) -> str:
    """The name of a band that a file writes so: by --band_alias, else by the table."""
    if written in aliases:
        return aliases[written]
    usual = usual_name(written)
    return aliases.get(usual, usual)


def check_apart(objects: Iterable[tuple], written: Iterable[str], bands: Iterable[str]) -> None:
    """Raises: Mistake where an object has two bands, written differently, that have become one.

    objects: of each image what tells its object from others, its id last.
    """
    known: dict[tuple, str] = {}
    for key, text, band in zip(objects, written, bands):
        if known.setdefault((key, band), text) != text:
            before = known[key, band]
            raise Mistake(
                f"object {key[-1]!r} has the bands {before!r} and {text!r}, and both are called {band!r} "
                f"here: tell them apart by --band_alias {shell_word(f'{text}=NAME')}"
            )


def said_of_bands(written: Iterable[str], bands: Iterable[str]) -> str:
    """What was taken for bands, with their counts: `g 120 (HSC-G), VIS 120, none 3`;
    in brackets how they are written, where it is another way.
    """
    return said_of_counts(Counter(zip(written, bands)))


def said_of_counts(counts: Mapping[tuple[str, str], int]) -> str:
    """The same, of (as it is written, band) -> count."""
    spellings: dict[str, Counter] = {}
    for (text, band), count in counts.items():
        spellings.setdefault(band, Counter())[text] += count
    parts = []
    for band in in_order(spellings):
        others = sorted(spellings[band].keys() - {band})
        shown = f" ({first_of(others)})" if others else ""
        parts.append(f"{band or 'none'} {spellings[band].total():,}{shown}")
    return ", ".join(parts)


def unused_aliases(aliases: Mapping[str, str], written: Iterable[str]) -> list[str]:
    """The aliases of bands that no file has."""
    there = set(written)
    there |= {usual_name(text) for text in there}
    return [f"{theirs}={ours}" for theirs, ours in aliases.items() if theirs not in there]


def renamed_as(wanted: Sequence[str], there: Iterable[str]) -> dict[str, str]:
    """Bands of the data, under the names that somebody else (a network, --bands) gives the same bands.

    Only where the table says that it is the same band, and nobody has it under his own name:
    of a network of HSC-G, whose data say g, {"g": "HSC-G"}.
    """
    found = {}
    there = list(there)
    for name in wanted:
        same = [
            band for band in there if band and band not in wanted and usual_name(band) == usual_name(name)
        ]
        if name not in there and len(same) == 1:
            found[same[0]] = name
    return found


def refuse_absent(wanted: Sequence[str], counts: Mapping[str, int], who: str, what: str) -> None:
    """Raises: Mistake where the data have none of the bands that are wanted.

    counts: how many files of the data have each band, "" those that name none.
    """
    if not any(counts.get(band) for band in wanted):
        there = [f"{band or 'files of no named band'} ({counts[band]:,})" for band in in_order(counts)]
        named = [band for band in in_order(counts) if band]
        cure = "name the files <object>_<band>.fits, or pack them by convert.py fits, which reads FILTER"
        if named:
            cure = f"say which is which with --band_alias {shell_word(f'{named[0]}={wanted[0]}')}"
        raise Mistake(
            f"{who} wants {bands_in_words(wanted)}, of which none is in {what}; there are "
            f"{', '.join(there)}: {cure}, or take a network of these bands"
        )


def bands_in_words(bands: Sequence[str]) -> str:
    return f"the band{'s' if len(bands) > 1 else ''} {' '.join(bands)}"


def shell_word(band: str) -> str:
    return f"'{band}'" if re.search(r"\s", band) else band


# ---- several bands


def in_order(bands: Iterable[str]) -> list[str]:
    """Names of bands: u g r i z y first, then others by wavelength, unknown ones by name, "" last."""
    named = set(bands)
    others = sorted(named - {*SLOAN, ""}, key=lambda band: (wavelength(band), band))
    return [band for band in SLOAN if band in named] + others + [""] * ("" in named)


def bands_of_extnames(names: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """For the EXTNAME of each image of a file the band that it names, as it is to be written, else "".

    SCI_g, IMAGE-VIS and g_SCI are bands; ERR_g, WHT, MASK and PSF_VIS are none. Writers of FITS put names in
    capitals, so where there is a G, which no Johnson system has, U G R I Z are those of Sloan, and so is Y
    unless J, H, K or VIS are there too. I Q U V are Stokes parameters.
    """
    texts = [found["band"] if (found := IMAGE_OF.fullmatch(name.strip())) else "" for name in names]
    if "Q" in texts:
        texts = ["" if len(text) == 1 else text for text in texts]
    small = set()
    if "G" in texts:
        near = {"J", "H", "K", "Ks", "KS", "VIS"} & set(texts)
        small = set("UGRIZ") if near else set("UGRIZY")
    written = [text.lower() if text in small else text for text in texts]
    return [text if text in aliases or is_band(text) or is_band(usual_name(text)) else "" for text in written]
