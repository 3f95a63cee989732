"""Which band an image of a FITS file is: by the name of its HDU, or by its header's FILTER and its like."""

from collections.abc import Mapping

from astropy.io import fits

from data.bands import band_called, bands_of_extnames, in_order, usual_name
from data.catalogues.planes import Hdu, read_hdus
from data.catalogues.sky import card_value
from data.cutouts.fits import BadFile

FILTER_CARDS = ("FILTER", "BAND", "FILTNAM", "FILTNAM1", "FILTNAME", "FILTER1", "FILTER2", "FILTERS")
FILTER_CARDS += ("FILTERID", "FILTER01", "FPA.FILTERID", "ESO INS FILT1 NAME")
PLAIN_NAMES = ("", "SCI", "SCIENCE", "IMAGE", "DATA")  # of HDUs that leave it to FILTER to say which band


def filter_of(*headers: fits.Header) -> str:
    """The band as the cards of these headers write it, "" where none does;
    CLEAR only where there is no other filter.
    """
    stated = [str(card_value(header, name)).strip() for name in FILTER_CARDS for header in headers]
    return next(filter(usual_name, stated), next(filter(None, stated), ""))


def bands_of_hdus(hdus: list[Hdu], aliases: Mapping[str, str]) -> dict[int, str]:
    """The images of a file that are named by bands: number of the HDU -> the band as it is written.

    By EXTNAME; or, where none is a band and the images are called SCI or nothing, by the FILTER that each has
    of its own. Of two images of one band the first is taken.
    """
    images = [hdu for hdu in hdus if len(hdu.shape) == 2]
    names = [str(card_value(hdu.header, "EXTNAME")) for hdu in images]
    written = bands_of_extnames(names, aliases)
    filters = [filter_of(hdu.header) for hdu in images]
    for number, text in enumerate(written):  # a letter that was put in capitals, and a card that says which
        if len(text) == 1 and band_called(filters[number], aliases).lower() == text.lower():
            written[number] = filters[number]
    if not any(written) and all(name.upper() in PLAIN_NAMES for name in names):
        several = len(set(filters)) == len(filters) > 1 and all(filters)
        written = filters if several else written
    found: dict[str, tuple[int, str]] = {}
    for hdu, text in zip(images, written):
        if text:
            found.setdefault(band_called(text, aliases), (hdu.number, text))
    return dict(found.values())


def bands_within(path: str, aliases: Mapping[str, str]) -> dict[int, str]:
    """`bands_of_hdus` of a file; none of one that cannot be read, which its reader says."""
    try:
        return bands_of_hdus(read_hdus(path), aliases)
    except BadFile:
        return {}


def said_of_unread_bands(path: str, aliases: Mapping[str, str]) -> str:
    """A line, where a file that is read for its first image alone holds several that are named by bands."""
    try:
        found = bands_within(path, aliases)
    except OSError:  # the reader of its pixels says so
        found = {}
    if len(found) < 2:
        return ""
    bands = " ".join(in_order(band_called(text, aliases) for text in found.values()))
    return f"{path} holds images of {bands}, of which the first is read: convert.py fits reads all of them"
