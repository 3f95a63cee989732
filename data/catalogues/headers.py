"""What the headers of a set of FITS files say that the pixels do not: HDUs that are not used, pixel scales,
units, zero points, geometries. Of many files some are looked at, evenly through the set.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.catalogues.planes import Hdu, image_of, read_hdus
from data.catalogues.resample import shape_text
from data.catalogues.sky import card_value, place_on_sky
from data.cutouts.fits import BadFile
from data.cutouts.pixel_scales import distinct_scales
from utils.mistake import Mistake

LOOKED_AT = 64
# cards of the flux of a count, or of the magnitude of a flux of 1
ZERO_POINTS = (
    "MAGZERO MAGZPT MAGZP MAG0 MAGZERO0 ZEROPNT ZEROPOINT ZERO_PT ZPOINT ZPT ZP PHOTZP PHOTZPT ABMAGZP "
    "FLUXMAG0 PHOTFLAM PHOTFNU CALFLUX"
).split()
MOST_NAMED = 6


@dataclass
class Headers:
    """What some files of a set say of themselves."""

    files: int  # of the set
    looked_at: int = 0  # of them, those that can be read
    shapes: Counter = field(default_factory=Counter)  # (H, W) of the image that is read: files
    unused: Counter = field(default_factory=Counter)  # (number, name) of HDUs: files
    scales: Counter = field(default_factory=Counter)  # arcsec, 4 figures: files
    units: Counter = field(default_factory=Counter)  # BUNIT: files
    zero_points: dict[tuple[str, str], Counter] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def said_of(self) -> str:
        if self.looked_at == self.files:
            return f"all {self.files:,} files looked at"
        return f"{self.looked_at:,} of {self.files:,} files looked at"

    def lines(self) -> list[str]:
        """What there is to be said of them, a line each."""
        found = []
        if self.unused:
            named = [f"{number} ({name})" for number, name in sorted(self.unused)]
            more = ", ..." if len(named) > MOST_NAMED else ""
            found.append(
                f"HDUs {', '.join(named[:MOST_NAMED])}{more} not used, in up to "
                f"{max(self.unused.values()):,} files ({self.said_of})"
            )
        scales = distinct_scales(self.scales)
        if len(scales) > 1:
            found.append(
                self._differing("pixel scales differ", {f"{k:g} arcsec": n for k, n in scales.items()})
            )
        if len(self.units) > 1:
            found.append(
                self._differing("units (BUNIT) differ", {repr(unit): n for unit, n in self.units.items()})
            )
        for (card, band), values in self.zero_points.items():
            if len(values) > 1:
                of_band = f" within band {band}" if band else ""
                found.append(
                    self._differing(
                        f"zero points ({card}) differ{of_band}", {f"{k:.7g}": n for k, n in values.items()}
                    )
                )
        return found

    def _differing(self, what: str, values: dict[str, int]) -> str:
        most = sorted(values.items(), key=lambda item: -item[1])
        each = ", ".join(f"{value} in {count:,} files" for value, count in most[:MOST_NAMED])
        more = ", ..." if len(most) > MOST_NAMED else ""
        return f"warning: {what}: {each}{more} ({self.said_of}); pixels are taken as they are"

    def scales_said(self) -> list[list[float]]:
        """[[arcsec, files]], the commonest first: JSON."""
        return [[scale, count] for scale, count in distinct_scales(self.scales).items()]


def sample_of(count: int, most: int = LOOKED_AT) -> list[int]:
    """Numbers below `count`, evenly through it, `most` at most."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []


def look_at_headers(
    paths: Sequence[str],
    bands: Sequence[str],
    used: Callable[[str, list[Hdu]], Iterable[int]] | None = None,
    image: Callable[[str, list[Hdu]], Hdu] | None = None,
    most: int = LOOKED_AT,
) -> Headers:
    """The headers of some of these files.

    bands: of each file. used: numbers of the HDUs that are read of a file, else the one of its image.
    image: its image, else the one that data/cutouts/fits.py reads.
    Raises: OSError for trouble of the machine.
    """
    headers = Headers(len(paths))
    for number in sample_of(len(paths), most):
        path, band = paths[number], bands[number]
        try:
            hdus = read_hdus(path)
            found = image(path, hdus) if image else image_of(path)[1]
            shape = found.plane_shape if found.shape else ()
        except BadFile:  # packing says why
            continue
        headers.looked_at += 1
        headers.shapes[shape] += 1
        taken = set(used(path, hdus)) if used else {found.number}
        for hdu in hdus:
            if hdu.number not in taken and (hdu.shape or hdu.is_table):
                headers.unused[hdu.number, hdu.name or "no name"] += 1
        cards = [hdus[found.number].header, hdus[0].header]
        scale = place_on_sky(found.shape, *cards).pixel_scale
        if math.isfinite(scale) and scale > 0:
            headers.scales[float(f"{scale:.4g}")] += 1
        unit = next((str(card_value(header, "BUNIT")) for header in cards if card_value(header, "BUNIT")), "")
        headers.units[unit or "none given"] += 1
        for card in ZERO_POINTS:
            values = [card_value(header, card) for header in cards]
            value = next((each for each in values if type(each) in (int, float)), None)
            if value is not None and math.isfinite(value):
                headers.zero_points[card, band][float(f"{value:.7g}")] += 1
    return headers


def refuse_geometry(headers: Headers, shape: tuple[int, int]) -> None:
    """Raises: Mistake where all files that were looked at have one geometry, which is not `shape`."""
    if len(headers.shapes) != 1 or tuple(shape) in headers.shapes:
        return
    (found,) = headers.shapes
    cure = f"--image_size {found[0]}" if found and found[0] == found[-1] else "square cutouts"
    raise Mistake(
        f"--image_size {shape[0]}: the images have {shape_text(found)} pixels ({headers.said_of}), "
        f"so nothing was packed: expected {cure}"
    )
