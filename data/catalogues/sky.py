"""Where on the sky a cutout lies and how large its pixels are, as FITS headers say it.

The world coordinate system decides (CD, or PC with CDELT, of any handedness and with pixels that are not
square); cards such as RA and DEC, which name the target and not the image's centre, serve only where there is
none. What no card says is NaN.
"""

import math
import re
import warnings
from typing import NamedTuple

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from data.catalogues.resample import crop_start

CELESTIAL = re.compile(r"(RA--|DEC-|[A-Z]LON|[A-Z]LAT|[A-Z]{2}LN|[A-Z]{2}LT)")
# All that the plane of the image needs. Other axes, look-up tables and alternate systems stay behind: a
# header may declare any number of them. Distortions by polynomials (SIP) are kept,
# of the orders that the convention has.
LINEAR = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|CD[12]_[12]|PC[12]_[12]|PC00[12]00[12]|PV[12]_\d{1,2}"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH"
)
POLYNOMIAL = re.compile(r"(A|B|AP|BP)_(ORDER|DMAX|\d_\d)")
STEP = re.compile(r"CD[12]_[12]|CDELT[12]")
TEXT = re.compile(r"(CTYPE|CUNIT)[12]|RADESYS|RADECSYS")
HIGHEST_ORDER = 9
CARDS = (
    ("RA", "DEC"),
    ("RA_TARG", "DEC_TARG"),
    ("RA_DEG", "DEC_DEG"),
    ("OBJRA", "OBJDEC"),
    ("RA_OBJ", "DEC_OBJ"),
)
SCALES = ("PIXSCALE", "PIXSCAL", "PIXSCL", "D001SCAL", "SCALE")
SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[: hd](\d{1,2})[: m'](\d{1,2}(?:\.\d*)?)[s\"]?")


class Place(NamedTuple):
    """ra, dec of the centre [deg, ICRS]; scale_x, scale_y of a pixel along the axes [arcsec];
    pixel_scale, the root of its area [arcsec].
    """

    ra: float = math.nan
    dec: float = math.nan
    scale_x: float = math.nan
    scale_y: float = math.nan
    pixel_scale: float = math.nan

    def resampled(self, before: tuple[int, int], after: tuple[int, int]) -> "Place":
        """Of the same sky on another number of pixels (H, W)."""
        y, x = before[0] / after[0], before[1] / after[1]
        return self._replace(
            scale_x=self.scale_x * x,
            scale_y=self.scale_y * y,
            pixel_scale=self.pixel_scale * math.sqrt(x * y),
        )


def place_on_sky(
    shape: tuple[int, ...], header: fits.Header, *others: fits.Header, image_size: int = 0, crop: int = 0
) -> Place:
    """The place of an image of `shape` (..., H, W) with this header,
    after data/catalogues/resample.py's cropping and resampling (0: none).

    others: headers that are asked for cards alone (the primary one, of an image in an extension).

    FK5 of equinox 2000 is taken for ICRS, from which it is 0.03 arcsec away at most: headers that are aligned
    with Gaia still name it. Other frames are converted.
    """
    (height, width), (top, left) = shape[-2:], crop_start(shape[-2:], crop) if crop else (0, 0)
    kept = (crop, crop) if crop else (height, width)
    found = _from_wcs(left + (kept[1] - 1) / 2, top + (kept[0] - 1) / 2, header)
    ra, dec = _sky_cards([header, *others]) if math.isnan(found.ra) else found[:2]
    if math.isnan(found.pixel_scale):
        scale = _scale_card([header, *others])
        found = Place(ra, dec, scale, scale, scale)
    found = found._replace(ra=ra, dec=dec)
    return found.resampled(kept, (image_size, image_size)) if image_size else found


def _from_wcs(x: float, y: float, header: fits.Header) -> Place:
    """Of the point (x, y), pixels from 0."""
    cards = _plane(header)
    if cards is None:
        return Place()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy mends old spellings and says so of each file
        try:
            wcs = WCS(cards, naxis=2)
            ra, dec = (float(angle) for angle in wcs.all_pix2world(x, y, 0))
            if wcs.wcs.lng == 1:
                ra, dec = dec, ra
            frame = wcs_to_celestial_frame(wcs)
            if not (frame.name == "icrs" or frame.name == "fk5" and frame.equinox.jyear == 2000):
                point = SkyCoord(ra, dec, unit="deg", frame=frame).icrs
                ra, dec = float(point.ra.deg), float(point.dec.deg)
            degrees = np.asarray(wcs.pixel_scale_matrix)
        except Exception:
            # a hostile header can raise nearly anything out of astropy: it says nothing of the sky
            return Place()
    scale_x, scale_y = (np.hypot(*degrees) * 3600).tolist()
    pixel_scale = math.sqrt(abs(np.linalg.det(degrees))) * 3600
    if not (all(map(math.isfinite, (ra, dec, scale_x, scale_y))) and abs(dec) <= 90 and pixel_scale > 0):
        return Place()
    return Place(ra % 360, dec, scale_x, scale_y, pixel_scale)


def _plane(header: fits.Header) -> fits.Header | None:
    """The cards of a celestial system of axes 1 and 2; None where there is no whole one."""
    cards = fits.Header()
    for number, name in enumerate(header):
        if LINEAR.fullmatch(name) or POLYNOMIAL.fullmatch(name):
            try:
                value = header[number]
            except Exception:  # an unreadable card
                continue
            if name.endswith("_ORDER") and not (isinstance(value, int) and 0 <= value <= HIGHEST_ORDER):
                return None
            if isinstance(value, fits.card.Undefined):
                continue
            if not isinstance(value, str if TEXT.fullmatch(name) else (int, float)) or isinstance(
                value, bool
            ):
                if name in ("EQUINOX", "EPOCH"):  # 'J2000' is written, and is the default
                    continue
                return None  # of a text wcslib would make 0
            cards[name] = value
    if not all(CELESTIAL.match(str(cards.get(name, ""))) for name in ("CTYPE1", "CTYPE2")):
        return None
    if "A_ORDER" in cards:
        # astropy applies the polynomials without the suffix too, but logs each time
        for name in ("CTYPE1", "CTYPE2"):
            cards[name] = cards[name].removesuffix("-SIP") + "-SIP"
    whole = all(name in cards for name in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")) and any(
        map(STEP.fullmatch, cards)
    )
    return cards if whole else None


def card_value(header: fits.Header, name: str, default=""):
    """The value of a card; `default` where it is missing, empty or unreadable."""
    try:
        value = header.get(name, default)
    except Exception:
        # astropy parses a card when it is asked for, and a damaged one can raise nearly anything
        return default
    return (
        default
        if value is None or isinstance(value, fits.card.Undefined)
        else value.strip()
        if isinstance(value, str)
        else value
    )


def _sky_cards(headers: list[fits.Header]) -> tuple[float, float]:
    for header in headers:
        for names in CARDS:
            ra = angle_degrees(card_value(header, names[0]), 15)
            dec = angle_degrees(card_value(header, names[1]), 1)
            # (0, 0) is what writers put who did not know
            if 0 <= ra <= 360 and abs(dec) <= 90 and (ra, dec) != (0, 0):
                return ra, dec
    return math.nan, math.nan


def angle_degrees(value, unit: float) -> float:
    """A number, in degrees; or a text: a number of degrees, or sexagesimal in `unit` degrees (RA: hours, 15).
    NaN if neither.
    """
    if isinstance(value, str):
        if found := SEXAGESIMAL.fullmatch(value.strip()):
            angle = int(found[2]) + int(found[3]) / 60 + float(found[4]) / 3600
            return unit * (-angle if found[1] == "-" else angle)
        try:
            return float(value)
        except ValueError:
            return math.nan
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _scale_card(headers: list[fits.Header]) -> float:
    for header in headers:
        for name in SCALES:
            scale = card_value(header, name)
            if isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < 3600:
                return float(scale)
    return math.nan
