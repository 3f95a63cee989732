"""data/catalogues/survey_fits.py: tables and images of any survey, stacks and extensions,
real files of all that are at hand.
"""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from data.catalogues.survey_fits import open_source
from data.cutouts.metadata import typed_metadata, validate_metadata
from data.cutouts.source import open_source as from_recipe
from tests.conftest import ROOT
from utils.mistake import Mistake

RNG = np.random.default_rng(9)


def image(path, side=16, **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.normal(size=(side, side)).astype("f4")
    fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(path)
    return pixels


def table(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def test_objects_and_their_bands(tmp_path):
    pixels = {
        (name, band): image(tmp_path / "images" / name / f"{name}_{band}.fits", INSTRUME="MegaPrime")
        for name in ("s1", "s_2")
        for band in "gr"
    }
    image(tmp_path / "images" / "unknown_g.fits")
    made = table(
        tmp_path / "t.csv",
        id=["s_2", "s1", "s3"],
        z=[0.3, "", 0.5],
        RA=[10.0, 11.0, 12.0],
        dec=[1.0, 2.0, 3.0],
        label=[1, 0, ""],
        mag=[20, 21, 22],
        note=["a", "b", "c"],
    )
    source = open_source(
        str(tmp_path / "images"), made, ["redshift=z", "magnitude_g=mag", "remark=note"], catalog="mine"
    )
    assert source.index[["object", "band", "domain", "label"]].values.tolist() == [
        ["s_2", "g", "mine", 1],
        ["s_2", "r", "mine", 1],
        ["s1", "g", "mine", 0],
        ["s1", "r", "mine", 0],
    ]
    assert validate_metadata(source.metadata).empty
    known = typed_metadata(source.metadata).set_index("object")
    assert known["redshift"].tolist() == pytest.approx([0.3, np.nan], nan_ok=True) and known[
        "ra"
    ].tolist() == [10, 11]
    assert (
        known["magnitude_g"].tolist() == [20, 21]
        and known["mine_remark"].tolist() == ["a", "b"]
        and known["bands"].tolist() == ["gr", "gr"]
    )
    assert (
        known["label_source"].tolist() == ["mine", "mine"]
        and known["instrument"].tolist() == ["MegaPrime"] * 2
    )
    images, bad = source.read(range(4))
    assert not bad and all(
        np.array_equal(mine, pixels[key])
        for mine, key in zip(images, source.index[["object", "band"]].itertuples(index=False))
    )
    assert (
        "rows without a file, not packed: 1 (s3)" in source.report
        and "files without a row, not packed: 1 (unknown_g.fits)" in source.report
    )
    assert from_recipe(source.recipe).index.equals(source.index)


def test_files_planes_and_hdus(tmp_path):
    stack = RNG.normal(size=(3, 8, 8)).astype("f4")
    folder = tmp_path / "images"
    folder.mkdir()
    fits.PrimaryHDU(stack).writeto(folder / "g.fits")
    fits.PrimaryHDU(stack + 1).writeto(folder / "r.fits")
    made = table(
        tmp_path / "t.csv",
        file=["g.fits", "r.fits"] * 3,
        plane=[0, 0, 1, 1, 2, 2],
        band=list("gr") * 3,
        object=[f"o{n // 2}" for n in range(6)],
    )
    source = open_source(str(folder), made)
    assert np.array_equal(source.read(range(6))[0], np.stack([stack, stack + 1], 1).reshape(6, 8, 8))
    assert source.index["path"][3].endswith("r.fits#1") and source.metadata["object"].tolist() == [
        "o0",
        "o1",
        "o2",
    ]
    cubes = open_source(str(folder), table(tmp_path / "c.csv", file=["g.fits"]), planes=["g", "r", "z"])
    assert cubes.index[["object", "band"]].values.tolist() == [
        ["g", band] for band in "grz"
    ] and np.array_equal(cubes.read(range(3))[0], stack)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(stack[0]), fits.ImageHDU(stack[1])]).writeto(
        folder / "many.fits"
    )
    many = open_source(
        str(folder), table(tmp_path / "m.csv", file=["many.fits"] * 4, hdu=[1, 2, 0, 9], object=list("abcd"))
    )
    images, bad = many.read(range(4))
    assert (
        np.array_equal(images[:2], stack[:2])
        and bad[2] == "HDU 0 has no image"
        and bad[3] == "no HDU 9: it has 3, from 0"
    )
    _, bad = open_source(
        str(folder), table(tmp_path / "w.csv", file=["g.fits", "r.fits"], plane=[7, ""])
    ).read(range(2))
    assert bad[0] == "no plane 7: it has 3, from 0" and "a column `plane`" in bad[1]


def test_a_table_names_no_file_outside_the_folder(tmp_path):
    image(tmp_path / "secret.fits")
    image(tmp_path / "images" / "a.fits")
    for name in ("../secret.fits", str(tmp_path / "secret.fits"), "x/../../secret.fits"):
        with pytest.raises(Mistake, match="none of its 1 rows names"):
            open_source(str(tmp_path / "images"), table(tmp_path / "t.csv", file=[name]))


def test_missing_pixels_and_pixel_scales(tmp_path):
    pixels = RNG.normal(size=(10, 10)).astype("f4")
    pixels[4, 4:7] = np.nan
    fits.PrimaryHDU(pixels).writeto(tmp_path / "a_g.fits")
    made = table(tmp_path / "t.csv", id=["a"], pixel_scale=[0.2])
    assert "3 of 100 pixels are not finite" in open_source(str(tmp_path), made).read(range(1))[1][0]
    source = open_source(str(tmp_path), made, max_masked=0.05, image_size=5)
    images, bad = source.read(range(1))
    assert not bad and np.isfinite(images).all()
    assert source.metadata["survey_masked_fraction"].tolist() == [0.03] and source.metadata[
        "pixel_scale"
    ].tolist() == pytest.approx([0.4])


@pytest.mark.parametrize(
    "columns, mapping, words",
    [
        ({"x": [1]}, [], "no column that names its images"),
        ({"id": ["b"]}, [], "none of its 1 rows"),
        ({"id": ["a"], "label": ["maybe"]}, [], "label 'maybe'"),
        ({"id": ["a"], "ra": ["east"]}, [], "expected a number"),
        ({"id": ["a"], "hdu": [1.5]}, [], "whole number"),
        ({"id": ["a"]}, ["z"], "ours=theirs"),
        ({"id": ["a"]}, ["redshift=zz"], "no column 'zz'"),
        ({"id": ["a"]}, ["re-d=id"], "ours=theirs"),
    ],
)
def test_wrong_tables_are_mistakes(tmp_path, columns, mapping, words):
    image(tmp_path / "a_g.fits")
    with pytest.raises(Mistake, match=words) as told:
        assert open_source(str(tmp_path), table(tmp_path / "t.csv", **columns), mapping).metadata is None
    assert "\n" not in str(told.value)


def lines_with(source, *words):
    found = [line for line in source.report if all(word in line for word in words)]
    assert len(found) == 1, (words, source.report)
    return found[0]


def test_labels_that_contradict_each_other_are_unknown(tmp_path):
    for name in ("a", "b", "c", "d"):
        for band in "gr":
            image(tmp_path / "images" / f"{name}_{band}.fits")
    made = table(
        tmp_path / "t.csv",
        id=["a", "a", "b", "c", "c", "d"],
        band=["g", "r", "", "g", "r", ""],
        label=["1.00", "0", "True", "1", "", "-99"],
        redshift=[0.1, 0.2, 0.3, 0.4, 0.4, ""],
    )
    source = open_source(str(tmp_path / "images"), made)
    assert dict(zip(source.index["object"], source.index["label"])) == dict(a=-1, b=1, c=1, d=-1)
    assert source.index["band"].tolist() == ["g", "r"] * 4  # a row of a band is that band's file alone
    lines_with(source, "different labels, taken for unknown: 1 (a)")
    lines_with(source, "a label in some of their rows, which is that of all: 1 (c)")
    lines_with(source, "labels taken for unknown: 1 (-99)")
    lines_with(source, "objects with several rows that differ in redshift (1 objects): the first row counts")
    lines_with(source, "objects: 4; 2 lenses, 0 non-lenses, 2 of unknown label")


def test_rows_of_a_key_twice_and_images_of_two_objects(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / "images" / f"{name}_g.fits")
    twice = open_source(
        str(tmp_path / "images"), table(tmp_path / "t.csv", id=["a", "b", "a"], label=[1, 0, 1])
    )
    assert twice.index["object"].tolist() == ["a", "b"]
    lines_with(twice, "name an image of their object again, not used: 1")
    made = table(tmp_path / "u.csv", id=["x", "y", "z"], file=["a_g.fits", "b_g.fits", "a_g.fits"])
    shared = open_source(str(tmp_path / "images"), made)
    assert shared.metadata.set_index("object")["group"].to_dict() == dict(x="", y="", z="x")
    lines_with(shared, "objects that have an image of another object: 1 (z)")


def test_numbers_that_stand_for_none_and_columns_that_are_not_used(tmp_path):
    names = [f"o{number}" for number in range(6)]
    for name in names:
        image(tmp_path / "images" / f"{name}_g.fits")
    made = table(
        tmp_path / "t.csv",
        id=names,
        ra=[99, 10, 11, 12, 13, -999],
        dec=[9, 10, 11, 12, 13, -999],
        magnitude_g=[20.5, 99, -99, 21, 9999, ""],
        redshift=[0.5, -99.0, 0.1, 0.2, 0.3, -1],
        snr_g=[99, 50, -9, 3, 3, 3],
        n_visits=[99, 100, 3, 4, 5, 6],
        sersic=[1, 2, 3, -99, 5, 999],
        group=["7", "", "7", "", "", ""],
        is_lens=[1, 0, 1, 0, 1, 0],
        note=["x"] * 6,
    )
    source = open_source(str(tmp_path / "images"), made, ["visits=n_visits", "index=sersic"])
    known = typed_metadata(source.metadata)
    assert np.isnan(known["magnitude_g"]).tolist() == [False, True, True, False, True, True]
    assert known["ra"].tolist()[:5] == [99, 10, 11, 12, 13] and np.isnan(known["ra"][5])
    assert np.isnan(known["redshift"]).tolist() == [False, True, False, False, False, False]
    assert known["snr_g"].tolist() == [99, 50, -9, 3, 3, 3] and known["survey_visits"].tolist()[0] == 99
    assert np.isnan(known["survey_index"]).tolist() == [False, False, False, True, False, True]
    assert known["group"].tolist() == ["7", "", "7", "", "", ""]
    line = lines_with(source, "taken for missing")
    assert "magnitude_g 3 (-99, 99, 9999)" in line and "ra 1 (-999)" in line and "redshift 1 (-99)" in line
    assert "survey_index 2 (-99, 999)" in line and "snr_g" not in line and "visits" not in line
    line = lines_with(source, "columns of the table that are not used: 2 (is_lens, note)")
    assert line.endswith("is it is_lens? --columns label=is_lens")


def test_a_folder_without_a_table(tmp_path):
    for name in ("lenses/a_g", "lenses/a_r", "Non-Lenses/b_g", "Non-Lenses/b_r", "more/c_g", "more/d"):
        image(tmp_path / "images" / f"{name}.fits")
    source = open_source(str(tmp_path / "images"))
    assert source.index[["object", "band", "label"]].values.tolist() == [
        ["b", "g", 0],
        ["b", "r", 0],
        ["a", "g", 1],
        ["a", "r", 1],
        ["c", "g", -1],
        ["d", "", -1],
    ]
    line = lines_with(source, "no --table")
    assert "lenses 1 (2 files)" in line and "Non-Lenses 0 (2 files)" in line
    lines_with(source, "taken from the names of files: objects (b, a, c, ...), bands (g 3, r 2, none 1)")
    again = from_recipe(source.recipe)
    assert again.index.equals(source.index) and validate_metadata(source.metadata)["field"].tolist() == []


def test_namesakes_in_two_folders_stay_apart_without_a_table(tmp_path):
    for name in ("lenses/1_g", "nonlenses/1_g", "nonlenses/2_g"):
        image(tmp_path / "images" / f"{name}.fits")
    source = open_source(str(tmp_path / "images"))
    assert dict(zip(source.index["object"], source.index["label"])) == {
        "lenses_1": 1,
        "nonlenses_1": 0,
        "2": 0,
    }
    lines_with(source, "named alike in several folders: 2")
    with pytest.raises(Mistake, match="names a column of --table, which is not given"):
        open_source(str(tmp_path / "images"), columns=["redshift=z"])


def test_real_hsc_stars(shared_data):
    """Stars are where their catalogue says; the band is the header's."""
    root = shared_data("lens/hsc_stars")
    source = open_source(
        str(root),
        str(root / "star_cat_correct.csv"),
        [
            "object=# object_id",
            "file=star_filename",
            "ra=ira",
            "dec=idec",
            "magnitude_i=imag_psf",
            "snr_i=SNR",
        ],
        catalog="hsc",
        crop=24,
    )
    stars = pd.read_csv(root / "star_cat_correct.csv", dtype={"# object_id": str})
    assert source.metadata["object"].tolist() == stars["# object_id"].tolist() and set(
        source.index["band"]
    ) == {"i"}
    assert source.metadata["ra"].tolist() == stars["ira"].tolist() and source.metadata[
        "pixel_scale"
    ].tolist() == pytest.approx([0.168] * 10)
    assert source.metadata["magnitude_i"].tolist() == pytest.approx(stars["imag_psf"].tolist())
    images, bad = source.read(range(10))
    for path, mine in zip(source.index["path"], images):
        theirs = fits.getdata(path, 1)
        top, left = ((side - 24) // 2 for side in theirs.shape)
        assert np.array_equal(mine, theirs[top : top + 24, left : left + 24])
    assert not bad


def test_real_cosmos_galaxies(shared_data):
    """One HDU a galaxy, named by a FITS table."""
    root = shared_data("lens/cosmos_hst_galaxies")
    catalogue = root / "real_galaxy_catalog_26_extension_example.fits"
    source = open_source(
        str(root),
        str(catalogue),
        [
            "object=IDENT",
            "file=GAL_FILENAME",
            "hdu=GAL_HDU",
            "magnitude_f814w=MAG",
            "pixel_scale=PIXEL_SCALE",
        ],
        catalog="cosmos",
        crop=16,
    )
    theirs = Table.read(catalogue)
    assert source.metadata["object"].tolist() == [str(name) for name in theirs["IDENT"]]
    for ours, name in (
        ("ra", "RA"),
        ("dec", "DEC"),
        ("pixel_scale", "PIXEL_SCALE"),
        ("magnitude_f814w", "MAG"),
    ):
        assert source.metadata[ours].tolist() == theirs[name].tolist()
    images, bad = source.read(range(len(theirs)))
    with fits.open(root / "real_galaxy_images_extension.fits") as hdus:
        for mine, hdu in zip(images, theirs["GAL_HDU"]):
            data = hdus[hdu].data
            top, left = ((side - 16) // 2 for side in data.shape)
            assert np.array_equal(mine, data[top : top + 16, left : left + 16].astype("f4"))
    assert not bad


def test_real_survey_stamps(shared_data, tmp_path):
    """H1413+117 and three others; the i, r stamps of PS1 are whole, z has lost a third of its pixels."""
    root = shared_data("lens/survey_stamps")
    source = open_source(
        str(root), table(tmp_path / "t.csv", id=["PS1-test"], object_name=["H1413+117"], label=[1])
    )
    assert source.index["band"].tolist() == ["i", "r", "z"] and source.shape == (49, 49)
    _, bad = source.read(range(3))
    assert list(bad) == [2] and "822 of 2401 pixels are not finite" in bad[2]
    assert source.metadata[["ra", "dec"]].iloc[0].tolist() == pytest.approx([213.94269, 11.49539], abs=1e-5)


def test_every_real_file(shared_data):
    """As the table of docs/catalogues.md has them: values of astropy, places to 0.01 arcsec."""
    spec = importlib.util.spec_from_file_location("real_files", ROOT / "benchmarks" / "real_files.py")
    real_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real_files)
    rows = real_files.entries(shared_data("lens"))
    assert len(rows) == 48
    for row in rows:
        assert row.difference == 0 or row.refused == row.images == 1 and row.finite < 0.95, row
        assert not row.apart > 0.01 and not row.scale_apart > 1e-9, row
    assert sum(np.isfinite(row.apart) for row in rows) == 38


# bands
# ----------------------------------------------------------------------------


def file_of_bands(path, *names):
    """A file with an image for each EXTNAME, by which they are returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = {name: RNG.normal(size=(8, 8)).astype("f4") for name in names}
    clean = dict(MASK=np.zeros((8, 8), "f4"), INVVAR=np.ones((8, 8), "f4"))  # no pixel is masked
    pixels |= {name: clean[name] for name in names if name in clean}
    hdus = [fits.PrimaryHDU()]
    for name, each in pixels.items():
        hdus.append(fits.ImageHDU(each))
        hdus[-1].header["EXTNAME"] = name  # astropy's own argument puts it in capitals
    fits.HDUList(hdus).writeto(path)
    return pixels


def bands_of(source):
    return source.index[["object", "band"]].values.tolist()


@pytest.mark.parametrize(
    "names, bands",
    [
        (["VIS", "Y", "J", "H"], {"VIS": "VIS", "Y": "Y", "J": "J", "H": "H"}),
        (["SCI_g", "ERR_g", "SCI_r", "MASK"], {"SCI_g": "g", "SCI_r": "r"}),
        (["G", "R", "I", "Z", "Y", "INVVAR"], dict(zip("GRIZY", "grizy"))),
        (["PSF", "HSC-I", "F814W"], {"HSC-I": "i", "F814W": "F814W"}),
    ],
)
def test_hdus_that_are_named_by_bands_are_an_image_each(names, bands, tmp_path):
    pixels = {
        name: file_of_bands(tmp_path / "in" / f"{name}.fits", *names)
        for name in ("J100000.35+101600.1", "DES J0408-5354")
    }
    made = table(tmp_path / "t.csv", file=[f"{name}.fits" for name in pixels])
    source = open_source(str(tmp_path / "in"), made)
    assert bands_of(source) == [[name, band] for name in pixels for band in bands.values()]
    images, bad = source.read(range(len(source.index)))
    assert not bad
    expected = [pixels[name][extname] for name in pixels for extname in bands]
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(images, expected))
    (said,) = (line for line in source.report if line.startswith("files whose HDUs are an image a band: 2 "))
    numbers = [names.index(extname) + 1 for extname in bands]
    written = [extname if "-" in extname else band for extname, band in bands.items()]
    assert ", ".join(f"{number} {text}" for number, text in zip(numbers, written)) in said
    assert from_recipe(source.recipe).index.equals(source.index)


def test_hdus_called_sci_are_told_apart_by_their_own_filters(tmp_path):
    filters = ["g DECam SDSS c0001 4720.0 1520.0", "z DECam SDSS c0004 9260.0 1520.0"]
    hdus = [fits.PrimaryHDU()] + [
        fits.ImageHDU(np.full((8, 8), number, "f4"), fits.Header(dict(FILTER=name)), "SCI", number + 1)
        for number, name in enumerate(filters)
    ]
    hdus[2].header["EXTVER"] = 2
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    source = open_source(str(tmp_path), table(tmp_path / "t.csv", file=["a.fits"]))
    assert bands_of(source) == [["a", "g"], ["a", "z"]]
    assert source.read(range(2))[0].mean((1, 2)).tolist() == [0, 1]
    with fits.open(tmp_path / "a.fits") as opened:
        assert [hdu.header["FILTER"] for hdu in opened[1:]] == filters
    assert any("bands: g 1 (g DECam" in line for line in source.report)


def test_an_hdu_by_its_name(tmp_path):
    pixels = file_of_bands(tmp_path / "a.fits", "VIS", "sci", "MASK")
    made = table(
        tmp_path / "t.csv",
        file=["a.fits"] * 5,
        object=list("vsxnm"),
        hdu=["VIS", "SCI,1", "2", "", "nothing"],
        band=["", "k", "l", "m", "n"],
    )
    source = open_source(str(tmp_path), made)
    images, bad = source.read(range(5))
    assert bands_of(source) == [["v", "VIS"], ["s", "k"], ["x", "l"], ["n", "m"], ["m", "n"]]
    assert np.array_equal(images[0], pixels["VIS"]) and np.array_equal(images[2], pixels["sci"])
    assert np.array_equal(images[1], pixels["sci"]) and np.array_equal(images[3], pixels["VIS"])
    assert list(bad) == [4] and bad[4].startswith("no HDU 'nothing': it has PRIMARY, VIS, SCI, MASK")


def test_the_band_column_says_which_hdu(tmp_path):
    pixels = file_of_bands(tmp_path / "a.fits", "VIS", "NISP_Y", "RMS")
    made = table(tmp_path / "t.csv", file=["a.fits"] * 3, band=["Y", "VIS", "H"])
    source = open_source(str(tmp_path), made)
    images, bad = source.read(range(3))
    assert bands_of(source) == [["a", "Y"], ["a", "VIS"], ["a", "H"]]
    assert np.array_equal(images[0], pixels["NISP_Y"]) and np.array_equal(images[1], pixels["VIS"])
    assert list(bad) == [2] and "no HDU 'H'" in bad[2]


@pytest.mark.parametrize(
    "cards, band",
    [
        (dict(FILTER="z DECam SDSS c0004 9260.0 1520.0"), "z"),
        (dict(FILTER="HSC-G"), "g"),
        (dict(FILTER1="CLEAR1L", FILTER2="F814W"), "F814W"),
        (dict(FILTNAM1="F702W", FILTNAM2=""), "F702W"),
        (dict(FILTERS="i.MP9702"), "i"),
        (dict(BAND="Y"), "Y"),
        (dict(FILTER="Y DECam c0005 10095.0 1130.0"), "Y"),
        ({"HIERARCH FPA.FILTERID": "g.00000"}, "g"),
        (dict(FILTER="my own"), "my own"),
        (dict(FILTER="CLEAR"), ""),
        ({}, ""),
    ],
)
def test_the_band_of_a_header(cards, band, tmp_path):
    image(tmp_path / "a.fits", **cards)
    source = open_source(str(tmp_path), table(tmp_path / "t.csv", file=["a.fits"]))
    assert bands_of(source) == [["a", band]]


def test_band_aliases(tmp_path):
    for name in ("a_HSC-G", "a_my.B", "b_HSC-G", "b_r"):
        image(tmp_path / "in" / f"{name}.fits")
    made = table(tmp_path / "t.csv", object=["a", "b"])
    opened = open_source(str(tmp_path / "in"), made, band_alias=["my.B=B", "HSC-G=gee", "Q=q"])
    assert bands_of(opened) == [["a", "gee"], ["a", "B"], ["b", "gee"], ["b", "r"]]
    assert "bands: r 1, B 1 (my.B), gee 2 (HSC-G)" in opened.report
    assert "--band_alias Q=q: no image has such a band" in opened.report
    assert from_recipe(opened.recipe).index.equals(opened.index)
    with pytest.raises(
        Mistake, match="object 'b' has the bands 'HSC-G' and 'r', and both are called 'g' here"
    ):
        open_source(str(tmp_path / "in"), made, band_alias=["r=g"])
    assert "band_alias" not in open_source(str(tmp_path / "in"), made).recipe  # stores made before stay


def test_the_filters_of_real_headers_are_the_bands_of_their_names(shared_data, tmp_path):
    """CFHTLS and Pan-STARRS; the bands of the names are also those that astropy's headers say."""
    stamps = shared_data("lens/survey_stamps")
    names = [f"{survey}-test_{band}" for survey in ("CFHTLS", "PS1") for band in "ri"]
    for number, name in enumerate(names):
        header = fits.getheader(stamps / f"{name}.fits")
        assert (header.get("FILTER") or header["FPA.FILTERID"]).startswith(name[-1])
        (tmp_path / f"{number}.fits").symlink_to(stamps / f"{name}.fits")  # the name says nothing
    made = table(tmp_path / "t.csv", file=[f"{number}.fits" for number in range(len(names))])
    source = open_source(str(tmp_path), made, image_size=16)
    assert source.index["band"].tolist() == list("riri")


@pytest.mark.parametrize(
    "name, band",
    [
        ("{}_f814w_drz", "F814W"),
        ("cutout-HSC-G-{}", "g"),
        ("{}.r.v2", "r"),
        ("stamp_{}_drz", "i"),  # as its header says
        ("{}_g_r_stack", "i"),  # two bands in a name are none
    ],
)
def test_files_named_by_more_than_their_object(name, band, tmp_path):
    """A camera's or an archive's words around the id are neither an object nor a band."""
    ids = ["150.51182+2.64133", "J0029-0055", "J0029-00551"]
    for known in ids:
        image(tmp_path / "in" / f"{name.format(known)}.fits", FILTER="i")
    made = table(tmp_path / "t.csv", target=ids, right_ascension=[1.0, 2.0, 3.0], DECdeg=[4.0, 5.0, 6.0])
    source = open_source(str(tmp_path / "in"), made)
    assert source.index["object"].tolist() == ids and set(source.index["band"]) == {band}
    assert source.metadata[["ra", "dec"]].values.tolist() == [[1, 4], [2, 5], [3, 6]]
    line = lines_with(source, "usually called")
    assert line.endswith("object=target, ra=right_ascension, dec=DECdeg")
    if not name.startswith("{}_"):
        assert lines_with(source, "a part of their name is: 3")


def test_of_several_columns_that_may_be_the_object_the_likelier_is_taken(tmp_path):
    image(tmp_path / "in" / "7_g.fits")
    made = table(tmp_path / "t.csv", name=["NGC 1"], object_id=[7])
    source = open_source(str(tmp_path / "in"), made)
    assert source.index["object"].tolist() == ["7"]
    assert lines_with(source, "object=object_id") and lines_with(source, "not used: 1 (name)")
