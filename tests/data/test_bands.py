"""data/bands.py: what surveys call their bands, and what a person says of them."""

import pytest

from data.bands import (
    bands_of_extnames,
    check_apart,
    in_order,
    is_band,
    read_aliases,
    refuse_absent,
    renamed_as,
    said_of_bands,
    usual_name,
    wavelength,
)
from data.names import name_pattern, named_files, parse_name
from utils.mistake import Mistake


@pytest.mark.parametrize(
    "band, written",
    {
        "u": ["u", "u_CFHT", "u.MP9302", "u_SDSS", "u'", "up", "u DECam c0006 3500.0 1000.0"],
        "g": ["g", "HSC-G", "g.00000", "sdss_g", "SDSS-g", "OCAM_g_SDSS", "ps1.g", "bokg", "ZTF_g", "DES_g"],
        "r": ["r", "HSC-R2", "r_57", "r DECam SDSS c0002 6415.0 1480.0", "W-S-R+", "DECam r", "zr", "r_SDSS"],
        "i": ["i", "i.MP9702", "HSC-I2", "HSC-I", "i_SDSS", "LSST_i", "W-S-I+"],
        "z": ["z", "z DECam SDSS c0004 9260.0 1520.0", "zd", "zs", "PS1 z"],
        "y": ["y", "HSC-Y", "lsst_y", "ps1.y", "y_10"],
        "Y": ["Y", "Y DECam c0005 10095.0 1130.0", "DES Y", "NISP-Y", "NISP_Y", "NIR_Y", "VISTA Y", "Y_E"],
        "H": ["H", "NIR_H", "2MASS H", "NISP-H", "EUCLID_H"],
        "Ks": ["Ks", "K_s", "2MASS Ks", "VISTA Ks", "Kshort"],
        "VIS": ["VIS", "EUCLID_VIS", "vis", "I_E"],
        "V": ["V", "Johnson V", "Bessell-V", "V_BESS", "W-J-V"],
        "R": ["R", "Cousins R", "R_SPECIAL", "W-C-RC"],
        "F814W": [
            "F814W",
            "f814w",
            "CLEAR1L;F814W",
            "F814W;CLEAR2L",
            "F814W, CLEAR",
            "ACS F814W",
            "F814W-CLEAR",
        ],
        "F444W": ["F444W", "JWST/NIRCam F444W"],
        "NB0921": ["NB0921", "HSC-NB0921"],
        "VR": ["VR DECam c0007 6300.0 2600.0"],
        "W1": ["W1", "unwise_w1"],
        "": ["", "CLEAR", "N/A", "none", "CLEAR1S;CLEAR2S"],
        # nothing is guessed
        "MegaCam-uS": ["MegaCam-uS"],
        "Hydrogen alpha": ["Hydrogen alpha"],
        "r2d2": ["r2d2"],
        "PS1_r_mask": ["PS1_r_mask"],
    }.items(),
)
def test_the_usual_name_of_a_band(band, written):
    assert {text: usual_name(text) for text in written} == dict.fromkeys(written, band)
    assert usual_name(band) == band  # and is one itself


@pytest.mark.parametrize(
    "name, object_and_band",
    {
        "17_VIS.fits": ("17", "VIS"),
        "17_J.fits.gz": ("17", "J"),
        "17_H.FITS": ("17", "H"),
        "DES_J0408-5354_Y.fits": ("DES_J0408-5354", "Y"),
        "x_F814W.fits": ("x", "F814W"),
        "x_HSC-G.fits": ("x", "HSC-G"),
        "x_NISP_Y.fits": ("x", "NISP_Y"),
        "x_u_CFHT.fits": ("x", "u_CFHT"),
        "x_g.00000.fits": ("x", "g.00000"),
        "x_f150w2.fits": ("x", "f150w2"),
        # as ever
        "x_sdss_r.fits": ("x_sdss", "r"),
        "HSC-G.fits": ("HSC-G", ""),
        # ids that end in something
        "galaxy_12_r2d2.fits": ("galaxy_12_r2d2", ""),
        "x_F12.fits": ("x_F12", ""),
        "x_VISTA.fits": ("x_VISTA", ""),
        "x_A.fits": ("x_A", ""),
        "x_12.fits": ("x_12", ""),
        "x_Q1.fits": ("x_Q1", ""),
    }.items(),
)
def test_the_band_at_the_end_of_a_name(name, object_and_band):
    assert parse_name(name) == object_and_band


def test_an_alias_is_a_band_at_the_end_of_a_name_too():
    aliases = read_aliases(["deep_B2=B", "B2=b2", "HSC-G=HSC-G", "VIS=i"])
    named = named_files(["x_deep_B2.fits", "x_B2.fits", "x_HSC-G.fits", "x_VIS.fits", "x_r.fits"], aliases)
    assert set(named.objects) == {"x"} and named.bands == ["B", "b2", "HSC-G", "i", "r"]
    assert parse_name("x_B2.fits") == ("x_B2", "")  # and to nobody else
    assert name_pattern(tuple(aliases)) is name_pattern(tuple(aliases))
    # the usual name is known to an alias as well
    assert named_files(["x_HSC-Z.fits"], read_aliases(["z=zed"])).bands == ["zed"]


@pytest.mark.parametrize(
    "pairs, said",
    [
        (["HSC-G"], "got 'HSC-G', expected THEIRS=OURS, such as HSC-G=g"),
        (["=g"], "got '=g'"),
        (["VIS="], "got 'VIS='"),
        (["VIS=my band"], "got 'VIS=my band'"),
        (["VIS=-i"], "got 'VIS=-i'"),
        (["VIS=i", "VIS=r"], "'VIS' is to be 'i' and 'r'"),
    ],
)
def test_an_alias_that_says_nothing_is_refused(pairs, said):
    with pytest.raises(Mistake, match=said):
        read_aliases(pairs)


def test_two_bands_of_an_object_do_not_become_one():
    check_apart([("a",), ("a",), ("b",)], ["HSC-G", "r", "g"], ["g", "r", "g"])  # of two objects
    check_apart([("a",), ("a",)], ["g", "g"], ["g", "g"])  # the same file twice: said elsewhere
    with pytest.raises(Mistake, match="object 'a' has the bands 'HSC-G' and 'g', and both are called 'g'"):
        check_apart([("a",), ("a",)], ["HSC-G", "g"], ["g", "g"])


def test_bands_are_in_order_of_wavelength():
    assert in_order("yrzgui") == list("ugrizy")
    mixed = [
        "H",
        "",
        "F814W",
        "Y",
        "my",
        "VIS",
        "y",
        "J",
        "F160W",
        "F435W",
        "F444W",
        "g",
        "NB0921",
        "another",
    ]
    assert in_order(mixed) == (
        ["g", "y", "F435W", "VIS", "F814W", "NB0921", "Y", "J", "F160W", "H", "F444W", "another", "my", ""]
    )
    # nm: as the telescopes' handbooks have them, to a few per cent
    for band, nm in dict(
        F606W=592, F850LP=917, F105W=1055, F160W=1540, F115W=1154, F770W=7640, F106=1060
    ).items():
        assert wavelength(band) == pytest.approx(nm, rel=0.08)


@pytest.mark.parametrize(
    "names, bands",
    [
        (["VIS", "Y", "J", "H"], ["VIS", "Y", "J", "H"]),
        (["SCI_g", "ERR_g", "SCI_r", "MASK"], ["g", "", "r", ""]),
        (["IMAGE-VIS", "WHT_VIS", "PSF_VIS", "INVVAR"], ["VIS", "", "", ""]),
        (["F814W", "F160W_SCI", "DQ"], ["F814W", "F160W", ""]),
        (["G", "R", "I", "Z", "Y"], list("grizy")),  # astropy puts names in capitals
        (["G", "R", "I", "Z", "Y", "J", "H", "KS"], [*"griz", "Y", "J", "H", "KS"]),
        (["U", "B", "V", "R", "I"], list("UBVRI")),
        (["I", "Q", "U", "V"], [""] * 4),  # Stokes
        (["SCI", "ERR", "DQ", "", "COMPRESSED_IMAGE", "PRIMARY", "CHI2"], [""] * 7),
        (["DECAM_G", "HSC-I"], ["DECAM_G", "HSC-I"]),
    ],
)
def test_the_bands_of_hdus(names, bands):
    assert bands_of_extnames(names, {}) == bands


def test_what_was_taken_is_said():
    assert said_of_bands(["HSC-G", "g", "VIS", "", ""], ["g", "g", "VIS", "", ""]) == (
        "g 2 (HSC-G), VIS 1, none 2"
    )
    assert renamed_as(["HSC-G", "f814w", "r"], ["g", "F814W", "r", "VIS"]) == {"g": "HSC-G", "F814W": "f814w"}
    assert renamed_as(["g", "y"], ["g", "HSC-G", "Y"]) == {}
    refuse_absent(["g", "r"], {"r": 3, "VIS": 2}, "the network", "the data")
    with pytest.raises(Mistake) as error:
        refuse_absent(["g", "r"], {"VIS": 1200, "": 2, "J": 1}, "the network", "the data")
    assert str(error.value) == (
        "the network wants the bands g r, of which none is in the data; there are VIS (1,200), J (1), files "
        "of no named band (2): say which is which with --band_alias VIS=g, or take a network of these bands"
    )
    assert not is_band("r2d2") and is_band("Y")
