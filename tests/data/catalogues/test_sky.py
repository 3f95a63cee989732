"""data/catalogues/sky.py against astropy.wcs, and headers that say nothing of the sky,
or something hostile.
"""

import math
import time

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from data.catalogues.sky import Place, angle_degrees, place_on_sky

TAN = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.1,
    "CRVAL2": 2.2,
    "CRPIX1": -899.5,
    "CRPIX2": 435.0,
}
CD = {"CD1_1": -1.2e-5, "CD1_2": -4e-6, "CD2_1": -4.1e-6, "CD2_2": 1.3e-5}
SHAPE = (60, 99)
FORMS = {
    "cd": TAN | CD,
    "cdelt": TAN | {"CDELT1": -2.1e-5, "CDELT2": 2.08e-5},  # NICMOS 2: not square
    "pc_cdelt": TAN
    | {"CDELT1": -2.1e-5, "CDELT2": 2.08e-5, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
    "old_pc": TAN
    | {
        "CDELT1": 5.6e-5,
        "CDELT2": 5.6e-5,
        "PC001001": -1.0,
        "PC001002": 0.0,
        "PC002001": 0.0,
        "PC002002": 1.0,
    },
    "crota": TAN | {"CDELT1": -2.1e-5, "CDELT2": 2.1e-5, "CROTA2": 30.0},
    "pc_beside_cd": TAN
    | CD
    | {"CDELT1": 1.0, "CDELT2": 1.0, "PC1_1": -1.2e-5, "PC1_2": -4e-6, "PC2_1": -4.1e-6, "PC2_2": 1.3e-5},
    "dec_first": TAN | CD | {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1},
    "sip": TAN
    | CD
    | {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 2,
        "B_ORDER": 2,
        "A_2_0": 2e-5,
        "B_0_2": -3e-5,
    },
    "sip_unsaid": TAN | CD | {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-5, "B_0_2": -3e-5},
    "over_the_edge": TAN | CD | {"CRVAL1": 359.9999, "CRPIX1": 2000.0},
    "cunit": TAN
    | {
        "CDELT1": -0.05,
        "CDELT2": 0.05,
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "CRVAL1": 150.1 * 3600,
        "CRVAL2": 2.2 * 3600,
    },
    "sin": TAN | CD | {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
    "fk5": TAN | CD | {"RADESYS": "FK5", "EQUINOX": 2000.0},
}


def header_of(cards):
    header = fits.Header()
    for name, value in cards.items():
        header[name] = value
    return header


@pytest.mark.parametrize("form", FORMS)
def test_centre_and_scale_are_those_of_astropy(form):
    header = header_of(FORMS[form])
    found = place_on_sky(SHAPE, header)
    wcs = WCS(header)
    expected = np.array(wcs.all_pix2world(49, 29.5, 0))
    if form == "dec_first":
        expected = expected[::-1]
    assert (
        np.hypot(
            (found.ra - expected[0] % 360) * math.cos(math.radians(expected[1])), found.dec - expected[1]
        )
        * 3600
        < 1e-6
    )
    matrix = wcs.pixel_scale_matrix * 3600
    assert found.pixel_scale == pytest.approx(math.sqrt(abs(np.linalg.det(matrix))), rel=1e-12)
    assert (found.scale_x, found.scale_y) == pytest.approx(np.hypot(*matrix), rel=1e-12)


def test_scale_of_pixels_that_are_not_square():
    """NICMOS 2: 0.0757 x 0.0750 arcsec."""
    found = place_on_sky(
        (256, 256),
        header_of(TAN | {"CD1_1": 0.0, "CD1_2": 0.0750 / 3600, "CD2_1": 0.0757 / 3600, "CD2_2": 0.0}),
    )
    assert (found.scale_x, found.scale_y, found.pixel_scale) == pytest.approx(
        (0.0757, 0.0750, math.sqrt(0.0757 * 0.0750))
    )


def test_other_frames_become_icrs():
    galactic = header_of(
        TAN
        | CD
        | {
            "CTYPE1": "GLON-TAN",
            "CTYPE2": "GLAT-TAN",
            "CRVAL1": 30.0,
            "CRVAL2": 60.0,
            "CRPIX1": 50.0,
            "CRPIX2": 30.5,
        }
    )
    b1950 = header_of(TAN | CD | {"EQUINOX": 1950.0, "CRPIX1": 50.0, "CRPIX2": 30.5})
    for header, point in (
        (galactic, SkyCoord(30, 60, unit="deg", frame="galactic")),
        (b1950, SkyCoord(150.1, 2.2, unit="deg", frame="fk4", equinox="B1950")),
    ):
        found = place_on_sky(SHAPE, header)
        assert SkyCoord(found.ra, found.dec, unit="deg").separation(point.icrs).arcsec < 0.01


@pytest.mark.parametrize("size", [(0, 41), (0, 40), (24, 0), (24, 41), (200, 0)])
def test_crop_and_resampling_move_the_centre_and_scale_the_pixels(size):
    image_size, crop = size
    header = header_of(FORMS["cd"])
    found = place_on_sky(SHAPE, header, image_size=image_size, crop=crop)
    top, left = ((SHAPE[0] - crop) // 2, (SHAPE[1] - crop) // 2) if crop else (0, 0)
    height, width = (crop, crop) if crop else SHAPE
    expected = WCS(header).all_pix2world(left + (width - 1) / 2, top + (height - 1) / 2, 0)
    assert (found.ra, found.dec) == pytest.approx(tuple(map(float, expected)), abs=1e-12)
    factor = (height / image_size, width / image_size) if image_size else (1, 1)
    whole = place_on_sky(SHAPE, header)
    assert found.scale_x == pytest.approx(whole.scale_x * factor[1]) and found.scale_y == pytest.approx(
        whole.scale_y * factor[0]
    )
    assert found.pixel_scale == pytest.approx(whole.pixel_scale * math.sqrt(factor[0] * factor[1]))


MISSING = {
    "empty": {},
    "linear": {
        "CTYPE1": "LINEAR",
        "CTYPE2": "LINEAR",
        "CRVAL1": 1,
        "CRVAL2": 1,
        "CRPIX1": 1,
        "CRPIX2": 1,
        "CD1_1": 1.0,
        "CD2_2": 1.0,
    },
    "spectrum": TAN | CD | {"CTYPE1": "WAVE"},
    "no_crval": {name: value for name, value in (TAN | CD).items() if name != "CRVAL1"},
    "no_steps": TAN,
    "singular": TAN | {"CD1_1": 0.0, "CD2_2": 0.0},
    "texts": TAN | CD | {"CRVAL1": "east"},
    "two_longitudes": TAN | CD | {"CTYPE2": "RA---TAN"},
    "unknown_projection": TAN | CD | {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
    "placeholders": {"RA": 0.0, "DEC": 0.0, "PIXSCALE": 0.0},
    "beyond_the_pole": {"RA": 12.0, "DEC": 95.0},
    "texts_in_cards": {"RA": "unknown", "DEC": "n/a", "PIXSCALE": "0.05 arcsec"},
    "booleans": {"RA": True, "DEC": True, "PIXSCALE": True},
    "polynomial_of_a_billion": TAN
    | CD
    | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 10**9, "B_ORDER": 10**9},
}


@pytest.mark.parametrize("form", MISSING)
def test_what_is_not_said_is_missing_and_never_zero(form):
    begin = time.perf_counter()
    found = place_on_sky(SHAPE, header_of(MISSING[form]))
    assert all(map(math.isnan, found)), found
    assert time.perf_counter() - begin < 5  # of a polynomial that would fill the memory, not of speed


def test_many_axes_and_tables_do_no_harm():
    many = {f"CTYPE{axis}": "VELO" for axis in range(3, 99)} | {
        "WCSAXES": 99,
        "CPDIS1": "LOOKUP",
        "PS3_0": "x",
        "CTYPE1A": "RA---TAN",
    }
    assert place_on_sky(SHAPE, header_of(many | FORMS["cd"])) == place_on_sky(SHAPE, header_of(FORMS["cd"]))


def test_cards_serve_where_there_is_no_wcs():
    primary = header_of({"RA_TARG": 246.94, "DEC_TARG": -0.9, "D001SCAL": 0.05})
    assert place_on_sky(SHAPE, fits.Header(), primary) == Place(246.94, -0.9, 0.05, 0.05, 0.05)
    found = place_on_sky(SHAPE, header_of(FORMS["cd"]), primary)  # which names the target, not the centre
    assert found == place_on_sky(SHAPE, header_of(FORMS["cd"]))
    sexagesimal = place_on_sky(SHAPE, header_of({"RA": "07:53:46.2", "DEC": "-34 16 33"}))
    assert (sexagesimal.ra, sexagesimal.dec) == pytest.approx((118.4425, -34.27583333))
    assert angle_degrees("12h00m36s", 15) == pytest.approx(180.15)


def test_real_files(shared_data):
    """Every celestial WCS of five surveys, to 0.01 arcsec."""
    count = 0
    for path in sorted(shared_data("lens").rglob("*.fits")):
        with fits.open(path) as hdus:
            for hdu in hdus:
                if hdu.is_image and hdu.shape and (wcs := WCS(hdu.header, naxis=2)).has_celestial:
                    found = place_on_sky(hdu.shape, hdu.header)
                    ra, dec = wcs.all_pix2world((hdu.shape[-1] - 1) / 2, (hdu.shape[-2] - 1) / 2, 0)
                    assert np.hypot((found.ra - ra) * np.cos(np.radians(dec)), found.dec - dec) * 3600 < 0.01
                    assert found.pixel_scale == pytest.approx(
                        math.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600, rel=1e-9
                    )
                    count += 1
    assert count >= 30
