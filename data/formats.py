"""What each reader takes and refuses, in the reader's own words: docs/formats.md is made of these tables."""

from typing import NamedTuple


class Format(NamedTuple):
    """One row of the page. A reader lists its own as FORMATS, beside the code that reads them."""

    name: str  # what a user calls it: "eROSITA srctool light curve"
    known_by: str  # how a file is taken for one: suffix, HDU name, columns
    taken: str  # what is read, and in which unit
    refused: str  # what is not, or is left out and counted
