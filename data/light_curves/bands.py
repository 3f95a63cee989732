"""Names of bands: one spelling each, and their order by energy or wavelength, over files of any survey."""

import re
from collections.abc import Iterable, Sequence

RANGE = re.compile(
    r"((?P<channel>PHA|PI):)?\s*(?P<low>[\d.]+(e[+-]?\d+)?)\s*(-|_|to)\s*(?P<high>[\d.]+(e[+-]?\d+)?)\s*"
    r"(?P<unit>k?eV)?",
    re.IGNORECASE,
)
# Mean wavelengths in nm, which only order: SVO Filter Profile Service, rounded. Names of one letter differ by
# case (SDSS g, Gaia G; LSST y, HSC Y); "zg" and "ZTF_g" are ZTF's.
WAVELENGTHS = {
    "FUV": 154, "NUV": 230, "UVW2": 209, "UVM2": 225, "UVW1": 268, "u": 356, "U": 361, "B": 441, "BP": 511,
    "g": 481, "zg": 481, "ZTF_g": 481, "c": 533, "V": 547, "G": 622, "r": 622, "zr": 644, "ZTF_r": 644,
    "Kepler": 642, "R": 658, "o": 679, "RP": 777, "i": 764, "zi": 790, "ZTF_i": 790, "TESS": 797, "I": 806,
    "z": 905, "y": 975, "Y": 1021, "J": 1240, "H": 1650, "K": 2190, "Ks": 2160, "W1": 3370, "W2": 4620,
    "W3": 12080, "W4": 22190,
}  # fmt: skip


def band_name(name: str) -> str:
    """The one spelling of a band: "0.200-0.600 keV", "200-600 eV" and "0.2-0.6" are "0.2-0.6"; in keV."""
    name = name.strip()
    found = RANGE.fullmatch(name)
    if not found:
        return name
    scale = 1e-3 if (found["unit"] or "").lower() == "ev" else 1.0
    low, high = (float(f"{float(found[end]) * scale:.6g}") for end in ("low", "high"))
    channel = f"{found['channel'].upper()}:" if found["channel"] else ""
    return f"{channel}{between(low, high)}"


def between(low: float, high: float) -> str:
    return f"{low:g}-{high:g}"


def band_place(name: str) -> tuple:
    """What bands are ordered by: energies by their lower edge, then wavelengths, channels, numbers, names."""
    found = RANGE.fullmatch(name)
    if found:
        return (2 if found["channel"] else 0, float(found["low"]), float(found["high"]), name)
    if name in WAVELENGTHS:
        return (1, WAVELENGTHS[name], 0.0, name)
    number = re.match(r"\d+", name)
    return (3, float(number[0]), 0.0, name) if number else (4, 0.0, 0.0, name)


def union_of_bands(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """All bands of many curves, in order."""
    return tuple(sorted({band for bands in names for band in bands}, key=band_place))


def are_named(bands: Sequence[str]) -> bool:
    """Whether a file says which its bands are; without a name they are numbered from 1."""
    return tuple(bands) != tuple(str(n) for n in range(1, len(bands) + 1))
