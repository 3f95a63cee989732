"""data/catalogues/galaxy_zoo.py: names and votes of every campaign, the lens rule, cubes,
and tables and files that are wrong.
"""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from data.catalogues.galaxy_zoo import Rule, open_source
from data.cutouts.metadata import typed_metadata, validate_metadata
from data.cutouts.source import open_source as from_recipe
from utils.mistake import Mistake

RNG = np.random.default_rng(4)
IDS = (
    "588017703996096547",
    "588017703996096548",
    "588017703996096549",
    "588017703996096550",
    "587722981742084144",
)
LENS, ODD, NOT_ODD = "t08_odd_feature_a20_lens_or_arc_", "t06_odd_a14_yes_", "t06_odd_a15_no_"


def cube(path, side=24, value=0.0, bands="grz", **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = fits.Header(
        {
            "SURVEY": "DECaLS",
            "BANDS": bands,
            **{f"BAND{n}": band for n, band in enumerate(bands)},
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": 150.0,
            "CRVAL2": 2.0,
            "CRPIX1": 5.0,
            "CRPIX2": 6.0,
            "CD1_1": -7.3e-5,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": 7.3e-5,
        }
        | cards
    )
    pixels = (RNG.normal(size=(len(bands), side, side)) + value).astype(">f4")
    fits.PrimaryHDU(pixels, header).writeto(path)
    return pixels.astype("f4")


def votes(**columns):
    """Galaxy Zoo 2 of five galaxies: a lens, one with few votes, one that nobody called a lens, one in doubt,
    one without a file.
    """
    table = {
        "dr7objid": IDS,
        "ra": [10.0, 20.0, 30.0, 40.0, 50.0],
        "dec": [1.0, 2.0, 3.0, 4.0, 5.0],
        LENS + "count": [15, 15, 0, 3, 9],
        LENS + "debiased": [0.75, 0.9, 0.0, 0.1, 0.5],
        LENS + "fraction": [0.6, 0.9, 0.0, 0.1, 0.5],
        ODD + "count": [25, 16, 4, 30, 25],
        ODD + "debiased": [0.7, 0.6, 0.1, 0.8, 0.9],
        ODD + "fraction": [0.6, 0.6, 0.1, 0.8, 0.9],
        NOT_ODD + "count": [15, 10, 36, 8, 3],
        "t08_odd_feature_a24_merger_count": [5, 1, 4, 25, 16],
        "t08_odd_feature_a19_ring_count": [4, 0, 0, 2, 0],
    }
    return pd.DataFrame(table | columns)


@pytest.fixture
def gz2(tmp_path):
    pixels = {name: cube(tmp_path / "images" / f"{name}.fits") for name in IDS[:4]}
    votes().to_csv(tmp_path / "labels.csv", index=False)
    return str(tmp_path / "images"), str(tmp_path / "labels.csv"), pixels


def test_the_rule_makes_labels_of_votes(gz2):
    images, labels, pixels = gz2
    source = open_source(images, labels)
    index = source.index
    assert (
        index.columns.tolist() == ["path", "object", "band", "domain", "label"]
        and index["label"].dtype == np.int8
    )
    assert index.groupby("object", sort=False)["label"].first().to_dict() == dict(zip(IDS, (1, -1, 0, -1)))
    assert index["band"].tolist() == list("grz") * 4 and index["path"][4].endswith(f"{IDS[1]}.fits#1")
    assert validate_metadata(source.metadata).empty
    metadata = typed_metadata(source.metadata).set_index("object")
    told = 15 + 5 + 4
    assert metadata["label_confidence"].tolist() == pytest.approx(
        [16 / (told + 2), np.nan, 41 / 42, np.nan], nan_ok=True
    )
    rule = "galaxy_zoo:odd>=20,lens>=5,gate>=0.5,debiased>=0.4"
    assert metadata["label_source"].tolist() == [rule, "", rule, ""]
    assert metadata["ra"].tolist() == [10.0, 20.0, 30.0, 40.0] and metadata["bands"].tolist() == ["grz"] * 4
    assert metadata["galaxy_zoo_" + LENS + "debiased"].tolist() == pytest.approx([0.75, 0.9, 0.0, 0.1])
    assert (
        metadata["pixel_scale"].iloc[0] == pytest.approx(0.2628)
        and metadata["instrument"].iloc[0] == "DECaLS"
    )
    assert any(
        "rows without a file: 1 (587722981742084144)" in line for line in source.report
    ) and source.without_file == [IDS[4]]
    found, bad = source.read(range(12))
    assert not bad and np.array_equal(found, np.concatenate([pixels[name] for name in IDS[:4]]))
    again = from_recipe(source.recipe)
    assert again.index.equals(index) and np.array_equal(again.read(range(2, 7))[0], found[2:7])


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"min_votes": 10}, (1, 1, 0, -1)),
        ({"min_votes": 41}, (-1, -1, -1, -1)),
        ({"min_lens_votes": 16}, (-1, -1, 0, -1)),
        ({"gate": 0.75}, (-1, -1, 0, -1)),
        ({"lens": 0.8}, (-1, -1, 0, -1)),
        ({"statistic": "fraction", "lens": 0.7}, (-1, -1, 0, -1)),
        ({"min_lens_votes": 3, "lens": 0.1}, (1, -1, 0, 1)),
    ],
)
def test_the_rule_is_configurable(gz2, options, expected):
    images, labels, _ = gz2
    source = open_source(images, labels, **options)
    assert tuple(source.index["label"][::3]) == expected
    assert (
        source.rule.source
        == Rule(
            **{"min_votes": 20, "min_lens_votes": 5, "gate": 0.5, "lens": 0.4, "statistic": "debiased"}
            | options
        ).source
    )


def test_merger_votes_are_no_lens_votes(tmp_path):
    cube(tmp_path / "images" / f"{IDS[0]}.fits")
    votes(**{LENS + "count": 0, LENS + "debiased": 0.0, "t08_odd_feature_a24_merger_count": 25}).to_csv(
        tmp_path / "t.csv", index=False
    )
    assert open_source(str(tmp_path / "images"), str(tmp_path / "t.csv")).index["label"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["dr7objid", "dr8objid", "asset_id", "objid", "id_str", "subject_id"])
def test_names_of_the_id_column(gz2, tmp_path, name):
    votes().rename(columns={"dr7objid": name}).to_csv(tmp_path / "other.csv", index=False)
    assert (
        open_source(gz2[0], str(tmp_path / "other.csv")).index["label"].tolist()
        == [1] * 3 + [-1] * 3 + [0] * 3 + [-1] * 3
    )


def test_campaigns_without_a_lens_column(tmp_path):
    """DECaLS and DESI: iauname in folders of four characters, suffixes of campaigns;
    no label, but their votes.
    """
    names = ["J100620.35+101629.1", "J100621.00+101630.2", "J234000.12-001122.3"]
    for name in names:
        cube(tmp_path / "images" / name[:4] / f"{name}.fits")
    table = pd.DataFrame(
        {
            "iauname": [*names[:2], "J999999.99+000000.0"],
            "smooth-or-featured-dr5_smooth": [10, 3, 1],
            "smooth-or-featured-dr5_featured-or-disk_fraction": [0.25, 0.75, 0.5],
            "merging_minor-disturbance_debiased": [0.1, 0.2, 0.3],
            "bar-dr8_strong": [1, "", 3],
            "comment": ["a", "b", "c"],
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    source = open_source(str(tmp_path / "images"), str(tmp_path / "t.csv"))
    assert (source.index["label"] == -1).all() and (source.metadata["label_source"] == "").all()
    assert source.metadata["label_confidence"].isna().all()
    assert source.metadata[
        "galaxy_zoo_smooth_or_featured_dr5_featured_or_disk_fraction"
    ].tolist() == pytest.approx([0.25, 0.75, np.nan], nan_ok=True)
    assert source.metadata["galaxy_zoo_bar_dr8_strong"].tolist() == pytest.approx(
        [1, np.nan, np.nan], nan_ok=True
    )
    assert "galaxy_zoo_comment" not in source.metadata
    assert len(source.without_row) == 1 and source.without_file == ["J999999.99+000000.0"]
    assert any("no column on lenses" in line for line in source.report) and any(
        "without a row, label -1: 1" in line for line in source.report
    )
    wcs = WCS(fits.getheader(source.files[0]), naxis=2)
    assert source.metadata[["ra", "dec"]].iloc[0].tolist() == pytest.approx(
        [float(x) for x in wcs.all_pix2world(11.5, 11.5, 0)], abs=1e-9
    )


def pictures(folder, names, kind="png", mode="RGB", side=12):
    """Pictures of noise: {name: their pixels}."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    pixels = {name: RNG.integers(0, 256, shape, dtype=np.uint8) for name in names}
    for name, values in pixels.items():
        Image.fromarray(values).save(folder / f"{name}.{kind}")
    return pixels


NAMES = ["J000411.19+020924.0", "J001655.18-002739.1", "J003937.09-032825.0"]


def test_pictures_and_a_parquet_table_with_redshifts(tmp_path):
    """As zoobot's catalogues have them: id_str, file_loc of elsewhere, redshift; ids above 2^53."""
    made = pictures(tmp_path / "images" / "J000", NAMES)
    (tmp_path / "images" / "J000" / f"{NAMES[0]}.x").mkdir()
    (tmp_path / "images" / "J000" / f"{NAMES[0]}.x" / f"{NAMES[0]}.jpg").write_bytes(b"\xff\xd8")
    pd.DataFrame(
        {
            "id_str": [*NAMES, "J999999.99+000000.0"],
            "dr8_id": [588017703996096547 + n for n in range(4)],
            "file_loc": [f"/elsewhere/{name}.png" for name in (*NAMES, "J999999.99+000000.0")],
            "ra": [1.25, 2.5, 3.75, 4.0],
            "dec": [1.0, -2.0, 3.0, 4.0],
            "redshift": [0.05, -99.0, None, 0.3],
            "smooth-or-featured_smooth_fraction": np.array([0.25, 0.5, 0.75, 1], "f4"),
            "ring": [True, False, True, False],
            "image": [{"bytes": b"1"}] * 4,
        }
    ).to_parquet(tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "images"), str(tmp_path / "t.parquet"))
    assert source.index["object"].tolist() == np.repeat(NAMES, 3).tolist()
    assert (
        source.index["band"].tolist() == ["red", "green", "blue"] * 3 and (source.index["label"] == -1).all()
    )
    known = source.metadata
    assert known["redshift"].tolist() == pytest.approx([0.05, np.nan, np.nan], nan_ok=True)
    assert known["ra"].tolist() == [1.25, 2.5, 3.75] and known["bands"].tolist() == ["red green blue"] * 3
    assert known["galaxy_zoo_smooth_or_featured_smooth_fraction"].tolist() == [0.25, 0.5, 0.75]
    assert validate_metadata(known).empty
    found, bad = source.read(range(9))
    assert not bad and np.array_equal(
        found, np.concatenate([np.moveaxis(made[name], 2, 0) for name in NAMES])
    )
    text = "\n".join(source.report)
    assert "4 pictures (PNG or JPEG): " in text and "no physical flux" in text
    assert "not packed: 1" in text and "rows without a file: 1" in text
    assert "columns of the table, not kept: 4 (dr8_id, file_loc, ring, image)" in text
    assert (
        "redshift: column redshift, known of 1 of 3 rows; outside -0.01 to 15, taken for missing: 1" in text
    )
    again = from_recipe(source.recipe)
    assert np.array_equal(again.read(range(2, 7))[0], found[2:7])


def test_pictures_beside_fits_files_are_counted(tmp_path):
    cube(tmp_path / "images" / f"{NAMES[0]}.fits", 12)
    pictures(tmp_path / "images", NAMES)
    source = open_source(str(tmp_path / "images"))
    assert (
        source.index["object"].tolist() == [NAMES[0]] * 3
        and "beside FITS files, not read: 3" in source.report[0]
    )


def test_pictures_that_cannot_be_used_are_reasons(tmp_path):
    pictures(tmp_path / "images", ["a", "b"])
    pictures(tmp_path / "images", ["c"], mode="L")
    (tmp_path / "images" / "d.jpeg").write_bytes(b"<html>")
    (tmp_path / "images" / "e.PNG").write_bytes((tmp_path / "images" / "a.png").read_bytes()[:-80])
    images, bad = open_source(str(tmp_path / "images")).read(range(15))
    assert sorted(bad) == list(range(6, 15)) and images[:6].any()
    assert "expected 3 planes" in bad[6] and "no PNG or JPEG" in bad[9] and "no whole picture" in bad[12]
    grey = pictures(tmp_path / "grey", ["a"], mode="L")
    single = open_source(str(tmp_path / "grey"), image_size=6)
    assert single.index["band"].tolist() == [""]
    assert single.read(range(1))[0].sum() == pytest.approx(grey["a"].sum(dtype=np.float64))


@pytest.mark.parametrize(
    "columns, taken",
    [
        ({"z": [0.1], "photo_z": [0.2]}, 0.1),
        ({"g": [18.0], "z": [17.0], "photo_z": [0.2]}, 0.2),
        ({"photo_z": [0.2], "SPEC_Z": [0.3]}, 0.3),
        ({"mass": [1.0]}, None),
    ],
)
def test_which_column_is_the_redshift(tmp_path, columns, taken):
    pictures(tmp_path / "images", ["a"])
    pd.DataFrame({"id_str": ["a"]} | columns).to_csv(tmp_path / "t.csv", index=False)
    metadata = open_source(str(tmp_path / "images"), str(tmp_path / "t.csv")).metadata
    assert ("redshift" in metadata) == (taken is not None)
    assert taken is None or metadata["redshift"].tolist() == [taken]


def test_pictures_inside_parquet_are_named(tmp_path):
    pd.DataFrame({"image": [{"bytes": b"1"}]}).to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(
        Mistake, match="no FITS file and no picture .*inside Parquet are not read: write them as"
    ):
        open_source(str(tmp_path))


def test_geometries(tmp_path):
    first, second = cube(tmp_path / "a.fits", 40), cube(tmp_path / "b.fits", 24)
    with pytest.raises(Mistake, match="2 geometries, .*40x40.*--image_size"):
        open_source(str(tmp_path))
    resampled = open_source(str(tmp_path), image_size=20)
    images, bad = resampled.read(range(6))
    assert not bad and resampled.shape == (20, 20)
    assert np.allclose(images.sum((1, 2)), np.concatenate([first.sum((1, 2)), second.sum((1, 2))]), atol=1e-3)
    assert resampled.metadata["pixel_scale"].tolist() == pytest.approx([0.2628 * 2, 0.2628 * 1.2])
    cropped = open_source(str(tmp_path), crop=24)
    assert np.array_equal(cropped.read(range(6))[0], np.concatenate([first[:, 8:32, 8:32], second]))
    images, bad = open_source(str(tmp_path), crop=30).read(range(6))
    assert list(bad) == [3, 4, 5] and "smaller than --crop 30" in bad[3] and not images[3:].any()


def test_single_bands(tmp_path):
    for band in "gr":
        fits.PrimaryHDU(np.full((8, 8), ord(band), "f4")).writeto(tmp_path / f"x1_{band}.fits")
    source = open_source(str(tmp_path))
    assert source.index[["object", "band"]].values.tolist() == [["x1", "g"], ["x1", "r"]] and source.metadata[
        "bands"
    ].tolist() == ["gr"]
    assert source.read(range(1, 2))[0][0, 0, 0] == ord("r")


def test_broken_files_are_reasons(gz2):
    images, labels, _ = gz2
    paths = open_source(images, labels).files
    with open(paths[0], "r+b") as file:
        file.truncate(9000)
    pixels = np.zeros((3, 24, 24), "f4")
    pixels[1, 2, 3] = np.nan
    fits.PrimaryHDU(pixels, fits.getheader(paths[1])).writeto(paths[1], overwrite=True)
    header = fits.getheader(paths[2])
    header["BAND2"] = "i"
    fits.PrimaryHDU(np.zeros((3, 24, 24), "f4"), header).writeto(paths[2], overwrite=True)
    source = open_source(images, labels)
    found, bad = source.read(range(12))
    assert sorted(bad) == list(range(9)) and not found[:9].any() and found[9:].any()
    assert "truncated" in bad[0] and "not finite" in bad[3] and bad[6] == "its planes are gri, expected grz"
    assert len(source.metadata) == 4 and np.isnan(source.metadata["pixel_scale"].iloc[0])


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "empty"),
        ("dr7objid,ra\n", "no rows"),
        ("a,b\n1,2\n", "no column of ids"),
        ("dr7objid,ra\n7,1\n", "none of its 1 rows"),
        ("dr7objid,dr7objid\n1,2\n", "twice"),
        ("dr7objid,ra\n1,2,3,4\n5\n", "cannot be read"),
        ("\0\0\0", "zero bytes"),
        (f"dr7objid,ra\n{IDS[0]},east\n", "expected a number"),
        (f"dr7objid,{LENS}count\n{IDS[0]},1\n", "which the lens rule needs"),
        ("SIMPLE  =                    T" + " " * 50, "cannot be read"),
        ("x" * 2**21, "a line of more"),
        ("\xff\xfe,x\n1,2\n", "cannot be read"),
    ],
)
def test_wrong_tables_are_mistakes(gz2, tmp_path, content, words):
    (tmp_path / "bad.csv").write_bytes(content.encode("latin1"))
    with pytest.raises(Mistake, match=words) as told:
        assert open_source(gz2[0], str(tmp_path / "bad.csv")).metadata is None
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"statistic": "count"}, "--statistic"),
        ({"gate": 1.5}, "--gate"),
        ({"min_votes": 0}, "--min_votes"),
        ({"image_size": -1}, "--image_size"),
        ({"id_column": "nsa_id"}, "no column 'nsa_id'"),
    ],
)
def test_wrong_options_are_mistakes(gz2, options, words):
    with pytest.raises(Mistake, match=words):
        open_source(gz2[0], gz2[1], **options)
    with pytest.raises(Mistake, match="not a folder"):
        open_source(gz2[0] + "x", gz2[1])


def test_real_cubes_and_tables(shared_data, tmp_path):
    """The cubes of DECaLS under names that two real tables have:
    values and places are astropy's, votes the table's.
    """
    root = shared_data("lens/galaxy_zoo_decals")
    tables = {"panoptes.csv": "id_str", "example_ring_catalog_basic.csv": "id_str"}
    for table, column in tables.items():
        ids = pd.read_csv(root / table, dtype=str)[column].tolist()
        folder = tmp_path / table
        folder.mkdir()
        (folder / f"{ids[5]}.fits").symlink_to(root / "example_b.fits")
        source = open_source(str(folder), str(root / table))
        assert source.index[["object", "band", "label"]].values.tolist() == [
            [ids[5], band, -1] for band in "grz"
        ]
        assert source.shape == (162, 162) and len(source.without_file) == len(ids) - 1
        with fits.open(root / "example_b.fits") as hdus:
            assert np.array_equal(source.read(range(3))[0], hdus[0].data.astype("f4"))
            centre = WCS(hdus[0].header, naxis=2).all_pix2world(80.5, 80.5, 0)
        row = pd.read_csv(root / table).iloc[5]
        known = source.metadata.iloc[0]
        if "ra" in row:
            assert (known["ra"], known["dec"]) == pytest.approx((row["ra"], row["dec"]))
            assert known["galaxy_zoo_smooth_or_featured_smooth_fraction"] == pytest.approx(
                row["smooth-or-featured_smooth_fraction"]
            )
        else:
            assert (known["ra"], known["dec"]) == pytest.approx(tuple(map(float, centre)), abs=1e-9)
        assert known["pixel_scale"] == pytest.approx(0.262, abs=1e-6)


@pytest.mark.parametrize("name", ["panoptes.csv", "example_ring_catalog_basic.csv"])
def test_real_tables_as_parquet_with_pictures(shared_data, tmp_path, name):
    """The real tables say the same as CSV and as Parquet, of pictures named as their columns name them."""
    path = shared_data("lens/galaxy_zoo_decals") / name
    table = pd.read_csv(path)
    locations = table["file_loc" if "file_loc" in table else "png_loc"].head(3)
    pictures(tmp_path / "images", [location.rpartition("/")[2].rpartition(".")[0] for location in locations])
    table.to_parquet(tmp_path / "t.parquet")
    sources = [open_source(str(tmp_path / "images"), str(found)) for found in (path, tmp_path / "t.parquet")]
    pd.testing.assert_frame_equal(sources[0].metadata, sources[1].metadata)
    assert len(sources[0].metadata) == 3 and sources[0].metadata["ra"].notna().all() == ("ra" in table)
    assert [line for line in sources[1].report if line.startswith("columns of the table, not kept")]
