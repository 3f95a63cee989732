"""Bands over files: one spelling each, their order, and packs of curves with different ones."""

import numpy as np
import pytest
from astropy.io import fits

from data.light_curves.bands import band_name, union_of_bands
from data.light_curves.curve import Reading
from data.light_curves.files import read_light_curves
from data.light_curves.packed import OF_BAND, OF_POINT, pack_light_curves
from tests.data.light_curves.test_files import rates, srctool, table, written
from utils.mistake import Mistake


@pytest.mark.parametrize(
    "written, name",
    [
        ("0.200-0.600", "0.2-0.6"),
        ("0.2-0.6 keV", "0.2-0.6"),
        (" 200-600eV", "0.2-0.6"),
        ("2 - 10 keV", "2-10"),
        ("PHA:0-14", "PHA:0-14"),
        ("pha:0-14", "PHA:0-14"),
        ("g", "g"),
        ("G", "G"),
        ("1", "1"),
        ("F606W", "F606W"),
    ],
)
def test_one_spelling_for_a_band(written, name):
    assert band_name(written) == name


@pytest.mark.parametrize(
    "bands",
    [
        ("0.2-0.6", "0.6-2.3", "2.3-5"),
        ("0.5-2", "2-10", "10-40"),
        ("3-10", "10-79"),
        ("u", "g", "r", "i", "z", "y"),
        ("g", "V", "r", "i", "I"),
        ("BP", "G", "RP"),
        ("ZTF_g", "ZTF_r", "ZTF_i"),
        ("c", "o"),
        ("0.2-0.6", "g", "PHA:0-14", "1", "2", "10", "new"),
    ],
)
def test_bands_are_in_order_of_energy_or_wavelength(bands):
    assert union_of_bands([[band] for band in sorted(bands)]) == bands


def with_energies(hdu: fits.BinTableHDU, *edges: tuple[float, float]) -> fits.BinTableHDU:
    for number, (low, high) in enumerate(edges, 1):
        hdu.header[f"E_MIN{number}"], hdu.header[f"E_MAX{number}"] = low, high
    return hdu


def test_a_pack_has_the_union_of_bands_by_name(tmp_path):
    """Curves of three, two and one band, in any order of columns: each value is where its band is, whatever
    its file; nothing is lost for having another number of bands.
    """
    hard, middle, soft = (2.3, 5.0), (0.6, 2.3), (0.2, 0.6)
    made = {
        "three.fits": srctool(5, 3, seed=1),
        "swapped.fits": with_energies(srctool(4, 2, seed=2, energies=False), hard, soft),
        "one.fits": with_energies(srctool(6, 1, seed=3, energies=False), middle),
        "far.fits": with_energies(srctool(3, 2, seed=4, energies=False), (10.0, 40.0), hard),
    }
    paths = [str(written(tmp_path / name, hdu)) for name, hdu in made.items()]
    (tmp_path / "g.csv").write_text("time,mag,magerr,band\n1,20,0.1,g\n2,20,0.1,g\n")
    paths.append(str(tmp_path / "g.csv"))
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert packed.good.all() and packed.bands == ("0.2-0.6", "0.6-2.3", "2.3-5", "10-40", "g")
    for row, path in enumerate(paths):
        (curve,) = read_light_curves(path, Reading())
        points = slice(packed.first[row], packed.first[row] + packed.points[row])
        for name in OF_POINT:
            assert np.array_equal(packed.fields[name][points], getattr(curve, name))
        for name in OF_BAND:
            if (field := getattr(curve, name)) is None:
                continue
            here = packed.fields[name][points]
            for place, band in enumerate(packed.bands):
                if band in curve.bands:
                    np.testing.assert_allclose(here[:, place], field[:, curve.bands.index(band)], rtol=1e-6)
                else:
                    assert not here[:, place].any()
    line = next(line for line in packed.summary() if "that some curves lack" in line)
    assert "3 lack 0.2-0.6, 3 lack 0.6-2.3, 2 lack 2.3-5, 4 lack 10-40, 4 lack g" in line
    assert packed.curves["bands"][1] == "2.3-5 0.2-0.6"


def test_two_spellings_are_one_band(tmp_path):
    """In two files, and in one table, where the value that is there is taken."""
    (tmp_path / "a.csv").write_text("time,flux,fluxerr,band\n1,5,1,0.200-0.600 keV\n1.001,7,1,2-10\n")
    (tmp_path / "b.csv").write_text(
        "time,flux,fluxerr,band\n1,5,1,0.2-0.6\n2,6,1,200-600 eV\n3,8,1,0.2-0.6\n3.001,9,1,200-600 eV\n"
    )
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert packed.bands == ("0.2-0.6", "2-10")
    assert packed.fields["rate"].tolist() == [[5, 7], [5, 0], [6, 0], [8, 0]]
    assert any("a band that a file has twice, left out: 1 of 4" in line for line in packed.summary())


def test_numbered_bands_are_those_of_the_others_if_as_many(tmp_path):
    paths = [str(written(tmp_path / f"{n}.fits", hdu)) for n, hdu in enumerate([srctool(4), rates(5)])]
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert packed.bands == ("0.2-0.6", "0.6-2.3", "2.3-5") and packed.fields["observed"].all()
    assert any("1 curves number their bands from 1" in line for line in packed.summary())
    paths.append(str(written(tmp_path / "one.fits", srctool(4, 1, energies=False))))
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert packed.bands == ("0.2-0.6", "0.6-2.3", "2.3-5", "1", "2", "3")
    assert any("1 lack" in line or "2 lack" in line for line in packed.summary())


def test_too_many_bands_are_refused(tmp_path):
    rows = "".join(f"{n},20,0.1,x{n}\n" for n in range(80))
    (tmp_path / "a.csv").write_text("time,mag,magerr,band\n" + rows)
    with pytest.raises(Mistake, match="80 different bands in these files: x0 x1"):
        pack_light_curves([str(tmp_path / "a.csv")], Reading(), tmp_path / "store")


def test_notes_are_added_up_over_files(tmp_path):
    """One line a kind with totals, the number of files, and the first by name."""
    paths = []
    for number in range(5):
        hdu = srctool(6, seed=number)
        hdu.data["TIME"][:number] = np.nan
        paths.append(str(written(tmp_path / f"{number}.fits", hdu)))
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    lines = [line for line in packed.summary() if "without a time" in line]
    assert lines == [f"  rows without a time, left out: 10 of 24 (42 %) in 4 files, first {paths[1]}"]


def test_xselect_curves_are_named_by_their_channels(tmp_path):
    names = {}
    for telescope, instrument, low, high in (
        ("NICER", "XTI", 30, 999),
        ("NUSTAR", "FPMA", 35, 210),
        ("SWIFT", "XRT", 30, 1000),
        ("", "", 30, 1000),
    ):
        hdu = table(
            "RATE",
            TIME=("D", np.arange(3.0), "s"),
            RATE=("E", np.ones(3), "count/s"),
            ERROR=("E", np.ones(3), "count/s"),
        )
        hdu.header.update(TELESCOP=telescope, INSTRUME=instrument, PHALCUT=low, PHAHCUT=high)
        (curve,) = read_light_curves(written(tmp_path / f"{telescope}.lc", hdu), Reading())
        names[telescope] = curve.bands
    assert names == {"NICER": ("0.3-10",), "NUSTAR": ("3-10",), "SWIFT": ("0.3-10",), "": ("1",)}
