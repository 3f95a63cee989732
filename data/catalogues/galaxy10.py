"""Galaxy10: pictures of galaxies in ten classes of morphology, as data/catalogues/hdf5/images.py reads them.

`images` [N, H, W, 3] uint8 and `ans` [N], of 69x69 pixels (SDSS; red, green, blue are i, r, g) or 256x256
(DECaLS; z, r, g), some with ra, dec, redshift and pxscale. The classes are kept as galaxy10_ans and
galaxy10_class; nobody asked about lenses.
Source: Leung and Bovy, the documentation of astroNN and of the data sets.
"""

from typing import Any

import numpy as np
import pandas as pd

from data.formats import Format

FORMATS = [
    Format(
        "Galaxy10 (SDSS, DECaLS)",
        "convert.py hdf5; data sets images [N, H, W, 3] uint8 and ans",
        "bands red, green, blue; galaxy10_ans and galaxy10_class; ra, dec, redshift and pxscale where they "
        "are there",
        "no lens label: every label is -1; pixels are a picture's, no physical flux",
    ),
]
CATALOG, IMAGES, CLASS = "galaxy10", "images", "ans"
# by the side of the images
CLASSES = {
    69: (
        "disk, face-on, no spiral",
        "smooth, completely round",
        "smooth, in-between round",
        "smooth, cigar shaped",
        "disk, edge-on, rounded bulge",
        "disk, edge-on, boxy bulge",
        "disk, edge-on, no bulge",
        "disk, face-on, tight spiral",
        "disk, face-on, medium spiral",
        "disk, face-on, loose spiral",
    ),
    256: (
        "disturbed",
        "merging",
        "round smooth",
        "in-between round smooth",
        "cigar shaped smooth",
        "barred spiral",
        "unbarred tight spiral",
        "unbarred loose spiral",
        "edge-on without bulge",
        "edge-on with bulge",
    ),
}


def class_columns(classes: np.ndarray | None, side: int) -> tuple[dict[str, Any], str]:
    """({column: the names of the classes}, the line for the log); no column where they have no names here.

    classes: `ans` [N], None where it is no column. side: of the images, pixels.
    """
    names = CLASSES.get(side, ())
    if (
        not names
        or classes is None
        or classes.dtype.kind not in "iu"
        or not np.isin(classes, range(10)).all()
    ):
        return {}, "ans: no lens labels, kept as galaxy10_ans; its classes have no names here (other images)"
    found = pd.array(np.array(names, dtype=object)[classes], dtype="str")
    return {"galaxy10_class": found}, (
        "ans: ten classes of morphology, kept as galaxy10_ans and galaxy10_class; no lens labels"
    )
