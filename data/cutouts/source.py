"""What a catalogue must say of itself to be packed into a store:
which images there are, what they are, and their pixels.
"""

from importlib import import_module
from typing import Any, Protocol

import numpy as np
import pandas as pd

# Modules with `open_source(**options) -> Source`, by kind.
KINDS = {
    name: f"data.catalogues.{name}" for name in ("galaxiesml", "galaxy_zoo", "hst", "bologna", "survey_fits")
} | dict(hdf5="data.catalogues.hdf5.images", tar_shards="data.tar_shards.source")


class Source(Protocol):
    """Images of a catalogue, and its objects; made from headers and tables alone,
    pixels are read when they are packed.

    An image is one band of one object; those of an object are on adjacent rows.
    """

    # [N] path, object, band, domain, label (int8: 1, 0, -1 unknown), in the order in which they are stored
    index: pd.DataFrame
    # [objects] columns of data/cutouts/metadata.py; None where nothing more is known
    metadata: pd.DataFrame | None
    shape: tuple[int, int]  # of every image
    recipe: dict[str, Any]  # JSON that makes the same source in another process

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        """(float32 [n, H, W] in physical units, {row: reason} of the images that cannot be used, zero there).

        Raises OSError for trouble of the machine.
        """


def open_source(recipe: dict[str, Any]) -> Source:
    """The source that a recipe, {"kind", ...options of its module}, describes."""
    assert recipe["kind"] in KINDS, recipe
    return import_module(KINDS[recipe["kind"]]).open_source(
        **{name: value for name, value in recipe.items() if name != "kind"}
    )
