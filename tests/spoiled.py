"""Files that no cutout can be read from, each in another way."""

from pathlib import Path

import numpy as np
from astropy.io import fits

REASONS = ("empty", "truncated", "not a FITS", "not finite", "40x41", "1x1681")


def spoil(folder: Path) -> dict[str, str]:
    """Spoil the first cutouts of a folder; path -> a word of the reason that must be given."""
    victims = sorted(folder.glob("*_?.fits"))[: len(REASONS)]
    victims[0].write_bytes(b"")
    victims[1].write_bytes(victims[1].read_bytes()[:9000])
    victims[2].write_text("this is no FITS file")
    fits.PrimaryHDU(np.full((41, 41), np.nan, np.float32)).writeto(victims[3], overwrite=True)
    fits.PrimaryHDU(np.zeros((40, 41), np.float32)).writeto(victims[4], overwrite=True)
    fits.PrimaryHDU(np.zeros((1, 1681), np.float32)).writeto(victims[5], overwrite=True)
    return dict(zip(map(str, victims), REASONS, strict=True))
