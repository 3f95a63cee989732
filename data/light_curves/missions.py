"""Which energies the channels of a mission's event lists are, and in which bands its photons are counted."""

from typing import NamedTuple

from astropy.io import fits


class Channels(NamedTuple):
    """The scale of PI: the middle of channel n is at `first` + n * `width`, in keV."""

    width: float
    first: float
    bands: tuple[float, ...]  # edges in keV, where --energy_bands says nothing
    source: str


# By TELESCOP and the beginning of INSTRUME. The middle of a channel is what falls into a band, so that edges
# which are edges of channels (3 keV of NuSTAR, channel 35) do not hang on rounding.
MISSIONS = {
    ("EROSITA", ""): Channels(1e-3, 0.0, (0.2, 0.6, 2.3, 5.0), "eSASS: PI in eV; eRASS1 bands 1 to 3"),
    ("XMM", "E"): Channels(
        1e-3, 0.0, (0.2, 0.5, 1.0, 2.0, 4.5, 12.0), "SAS: PI in eV; 4XMM bands 1 to 5 (Webb et al. 2020)"
    ),
    ("NICER", ""): Channels(0.01, 0.005, (0.3, 2.0, 4.0, 10.0), "NICER mission guide: PI of 10 eV"),
    ("NUSTAR", ""): Channels(
        0.04, 1.62, (3.0, 10.0, 79.0), "NuSTAR data analysis guide: channel n begins at 1.6 keV + n 40 eV"
    ),
    ("SWIFT", "XRT"): Channels(
        0.01, 0.005, (0.3, 1.0, 2.0, 10.0), "XRT software guide: PI of 10 eV; bands of 2SXPS"
    ),
    ("CHANDRA", "ACIS"): Channels(
        0.0146, -0.0073, (0.5, 1.2, 2.0, 7.0), "CIAO: PI = [E / 14.6 eV + 1]; bands s, m, h of CSC 2"
    ),
    ("IXPE", ""): Channels(0.04, 0.02, (2.0, 4.0, 8.0), "IXPE data formats: 375 channels from 0 to 15 keV"),
    ("SUZAKU", "XIS"): Channels(3.65e-3, 0.0, (0.5, 2.0, 10.0), "Suzaku data reduction guide: PI of 3.65 eV"),
}  # fmt: skip
ALIASES = {"SRG": "EROSITA", "AXAF": "CHANDRA", "XTE": "RXTE"}
# Columns that say which module saw an event. CCDs lie side by side and a source is on one or two of them,
# while the others look at the same sky.
SIDE_BY_SIDE = ("CCD_ID", "CCDNR")
SAME_SKY = ("TM_NR", "DET_ID", "DETID", "PCUID")


def telescope_of(header: fits.Header) -> str:
    name = str(header.get("TELESCOP", "")).strip().upper()
    return ALIASES.get(name, name)


def channels_of(header: fits.Header) -> Channels | None:
    """The scale of PI of the mission and instrument that a header names, None where none is known here."""
    telescope = telescope_of(header)
    instrument = str(header.get("INSTRUME", "")).strip().upper()
    for (mission, beginning), channels in MISSIONS.items():
        if mission == telescope and instrument.startswith(beginning):
            return channels
    return None
