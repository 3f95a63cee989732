"""data/cutouts/metadata.py: types, checks and matches, against brute force on the sphere, astropy,
and tables that are wrong in every way.
"""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord, angular_separation, search_around_sky
from astropy.io import fits
from astropy.table import Table

from data.cutouts.metadata import (
    FIELDS,
    at_one_epoch,
    band_names,
    field_of,
    match_positions,
    metadata_arrays,
    metadata_summary,
    typed_metadata,
    validate_metadata,
)
from utils.mistake import Mistake

NUMBERS = [field.name for field in FIELDS if field.type is float and not field.per_band]
TEXTS = [field.name for field in FIELDS if field.type is str]


def objects(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"object": [f"o{number}" for number in range(count)], **columns})


def problems(**columns):
    found = validate_metadata(objects(**columns))
    return [tuple(row) for row in found.itertuples(index=False)]


def scattered(count, seed=0):
    """Positions everywhere, with companions near, around both poles and both sides of RA 0."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    third = count // 3
    dec[:third] = rng.choice([-1, 1], third) * (90 - rng.exponential(0.001, third))  # some arcsec of a pole
    ra[third : 2 * third] = rng.normal(0, 0.001, third) % 360  # and of RA 0
    dec[third : 2 * third] = rng.normal(0, 0.001, third)
    return ra, dec


def separations(ra, dec, other_ra, other_dec):
    """[n, m] arcsec, every pair"""
    one, other = np.radians([ra, dec])[:, :, None], np.radians([other_ra, other_dec])[:, None]
    return np.degrees(angular_separation(*one, *other)) * 3600


def test_fields():
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    assert set(names) >= set(
        "redshift seeing instrument bands ra dec magnitude snr sersic_index half_light_radius ellipticity "
        "completeness source_catalog label_source label_confidence pixel_scale".split()
    )
    for field in FIELDS:
        assert (
            field.possible[0] <= field.expected[0] <= field.expected[1] <= field.possible[1] and field.meaning
        )
    assert field_of("magnitude_F814W").name == "magnitude" and field_of("dec").unit == "deg"
    assert (
        field_of("magnitude") is None
        and field_of("galaxiesml_g_petro_rad") is None
        and field_of("redshift_g") is None
    )


@pytest.mark.parametrize(
    "bands, names",
    [
        ("grizy", list("grizy")),
        ("r", ["r"]),
        ("F814W", ["F814W"]),
        ("F555W F814W", ["F555W", "F814W"]),
        ("VIS", ["VIS"]),
        ("VIS, Y, J", ["VIS", "Y", "J"]),
        ("", []),
    ],
)
def test_band_names(bands, names):
    assert band_names(bands) == names


def test_typed_has_every_column():
    table = typed_metadata(
        pd.DataFrame(
            {
                "galaxiesml_x": [1, 2],
                "redshift": [0.5, None],
                "object": [7, 36411452835238206],
                "bands": ["gr", "F814W"],
                "snr_z": [3, 4],
            }
        )
    )
    bands = ["g", "r", "F814W", "z"]
    expected = (
        [f"{field.name}_{band}" for field in FIELDS for band in bands if field.per_band]
        + TEXTS
        + NUMBERS
        + ["galaxiesml_x"]
    )
    assert sorted(table.columns) == sorted(expected)
    assert table.columns[-1] == "galaxiesml_x" and list(table.columns[:2]) == ["object", "source_catalog"]
    assert table["object"].tolist() == ["7", "36411452835238206"]
    assert all(
        table[name].dtype == np.float64
        for name in expected
        if field_of(name) and field_of(name).type is float
    )
    assert all(isinstance(table[name].dtype, pd.StringDtype) for name in TEXTS)
    assert table["redshift"].tolist()[0] == 0.5 and table["redshift"].isna().tolist() == [False, True]
    assert (
        table["magnitude_g"].isna().all()
        and table["instrument"].tolist() == ["", ""]
        and table["galaxiesml_x"].tolist() == [1, 2]
    )
    pd.testing.assert_frame_equal(typed_metadata(table), table)
    assert len(typed_metadata(pd.DataFrame({"object": []}))) == 0


def test_typed_survives_parquet(tmp_path):
    table = typed_metadata(
        objects(
            ra=[1 / 3, np.nan],
            bands=["g", ""],
            castles_note=["a", None],
            castles_flag=[True, False],
            castles_count=[1, 2],
        )
    )
    table.to_parquet(tmp_path / "metadata.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "metadata.parquet"), table)


def test_typed_takes_what_catalogues_hold():
    """Bytes of HDF5, big-endian numbers of FITS, masks, numbers in quotes, ids that became floats."""
    swapped = np.array([1.5, np.nan], dtype=">f8")
    masked = Table(
        {"object": np.array([b"a ", b"b"]), "seeing": np.ma.array([0.7, 9], mask=[False, True])}
    ).to_pandas()
    table = typed_metadata(
        masked.assign(
            dec=swapped,
            des_counts=np.array([3, 4], dtype=">i4"),
            redshift=["0.25", " "],
            magnitude_g=[None, 20],
            completeness=pd.array([1, None], dtype="Int64"),
            instrument=[None, "HSC"],
        )
    )
    assert table["object"].tolist() == ["a ", "b"] and table["instrument"].tolist() == ["", "HSC"]
    expected = dict(
        dec=[1.5, np.nan],
        redshift=[0.25, np.nan],
        magnitude_g=[np.nan, 20],
        completeness=[1, np.nan],
        seeing=[0.7, np.nan],
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(table[name], values)
        assert table[name].dtype == np.float64
    assert table["des_counts"].groupby(table["des_counts"]).size().tolist() == [1, 1]
    assert typed_metadata(pd.DataFrame({"object": [12.0, np.nan]}))["object"].tolist() == ["12", ""]


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("redshift", [0.1, "high", "low"], "column 'redshift' holds 'high' in row 1: expected a number"),
        ("magnitude_g", [1, 2, "20,5"], "column 'magnitude_g' holds '20,5' in row 2"),
        ("dec", [True, False, True], "column 'dec' holds True in row 0|column 'dec' holds np.True_ in row 0"),
        ("ra", pd.to_datetime(["2020-01-01"] * 3), "column 'ra' holds Timestamp.* in row 0"),
        ("seeing", [1.0, [2.0], 3.0], r"column 'seeing' holds \[2.0\] in row 1"),
        ("object", [1.0, 2.0**60, 3.0], "column 'object' holds .* in row 1: .*last digits"),
        ("object", ["a", b"\xff", "c"], "column 'object' holds .* in row 1"),
        ("object", pd.Series(["a", "\ud800", "c"], dtype=object), "column 'object' holds .* in row 1"),
        ("bands", [["g", "r"], "g", "g"], "column 'bands' holds .* in row 0: expected a text, not list"),
        ("instrument", ["a", "b", 1.5], "column 'instrument' holds 1.5 in row 2"),
        ("castles_note", ["a", {}, "b"], "column 'castles_note' holds {} in row 1"),
    ],
)
def test_typed_names_the_first_wrong_value(column, values, message):
    with pytest.raises(Mistake, match=message):
        typed_metadata(objects(seeing=[1, 2, 3]).assign(**{column: values}))


def test_typed_needs_ids_and_no_column_twice():
    with pytest.raises(Mistake, match="has the columns ra, dec: expected also object"):
        typed_metadata(pd.DataFrame({"ra": [1], "dec": [2]}))
    with pytest.raises(Mistake, match="'ra' is there twice"):
        typed_metadata(pd.DataFrame([["a", 1, 2]], columns=["object", "ra", "ra"]))


def test_a_good_table_has_no_problems():
    table = objects(
        ra=[0, 359.9],
        dec=[-90, 90],
        redshift=[-0.0001, 2],
        ellipticity=[0, 1],
        magnitude_i=[20, np.nan],
        bands=["i", "i"],
        label_source=["obs:castles", ""],
        label_confidence=[1, np.nan],
    )
    found = validate_metadata(table)
    assert len(found) == 0 and list(found.columns) == ["object", "field", "value", "problem"]
    assert metadata_summary(table, found)[-1] == "no problems found"


@pytest.mark.parametrize(
    "column, values, kinds",
    [
        ("dec", [91, 90, -90.001], {0: "impossible: must be -90 to 90 deg", 2: "impossible"}),
        ("ra", [-1, 360.5, 0], {0: "impossible: must be 0 to 360 deg", 1: "impossible"}),
        (
            "redshift",
            [-2, 99, -0.5],
            {
                0: "impossible: must be at least -1",
                1: "out of range: expected -0.01 to 15",
                2: "out of range",
            },
        ),
        (
            "seeing",
            [0, 0.7, 70],
            {0: "impossible: must be positive arcsec", 2: "out of range: expected 0.01 to 5 arcsec"},
        ),
        ("magnitude_g", [np.inf, 99, 20], {0: "not finite", 1: "out of range: expected 0 to 35 mag"}),
        ("snr_z", [-np.inf, -999, -2], {0: "not finite", 1: "out of range"}),
        ("sersic_index", [-99, 30, 4], {0: "impossible", 1: "out of range"}),
        ("half_light_radius", [-1, 500, 1], {0: "impossible", 1: "out of range"}),
        ("ellipticity", [-0.1, 1.01, 0.5], {0: "impossible", 1: "impossible"}),
        ("completeness", [-0.1, 1.01, 0.5], {0: "impossible", 1: "impossible"}),
    ],
)
def test_values_that_cannot_be(column, values, kinds):
    other = {"dec": [0, 1, 2]} if column == "ra" else {"ra": [10, 20, 30]} if column == "dec" else {}
    found = problems(**{column: values}, **other)
    # the order of a kind is that of the rows
    assert {(name, field, value) for name, field, value, _ in found} == {
        (f"o{row}", column, str(float(values[row]))) for row in kinds
    }
    for row, kind in kinds.items():
        assert next(problem for name, *_, problem in found if name == f"o{row}").startswith(kind)


def test_what_is_missing():
    assert problems(ra=[1, np.nan, 3], dec=[1, 2, np.nan]) == [
        ("o2", "ra", "3.0", "missing: ra without dec"),
        ("o1", "dec", "2.0", "missing: dec without ra"),
    ]
    assert problems(label_confidence=[0.5, 0.5], label_source=["", "weak:galaxy_zoo"]) == [
        ("o0", "label_confidence", "0.5", "missing: a confidence without a label_source")
    ]
    assert validate_metadata(pd.DataFrame({"object": ["a", "", "a", None]})).values.tolist() == [
        ["", "object", "", "missing: every object needs an id"],
        ["", "object", "", "missing: every object needs an id"],
        ["a", "object", "a", "duplicated id"],
        ["a", "object", "a", "duplicated id"],
    ]


def test_duplicated_positions_against_every_pair():
    ra, dec = scattered(1500)
    ra[-300:], dec[-300:] = ra[:300], dec[:300]  # exactly equal ones
    ra[-30:], dec[-30:] = 12, -30  # many of them
    ra[-2:], dec[-2:] = [10, 200], 90  # the pole itself has every right ascension
    dec[7] = np.nan
    distance = separations(ra, dec, ra, dec)
    np.fill_diagonal(distance, np.inf)
    distance[7] = distance[:, 7] = np.inf
    found = validate_metadata(objects(ra=ra, dec=dec))
    found = found[found["problem"].str.startswith("duplicated position")]
    expected = np.flatnonzero(distance.min(axis=1) <= 1)
    assert 400 < len(expected) < 1500
    assert sorted(found["object"]) == sorted(f"o{row}" for row in expected)
    for name, problem in zip(found["object"], found["problem"]):
        arcsec, other = problem.removeprefix("duplicated position: ").split(" arcsec from o")
        row = int(name[1:])
        assert float(arcsec) == pytest.approx(distance[row].min(), abs=6e-4)
        assert int(other) != row and distance[row, int(other)] == pytest.approx(distance[row].min(), abs=1e-6)


@pytest.mark.parametrize("separation, found", [(0.999, 2), (1.001, 0)])
@pytest.mark.parametrize("ra, dec", [(0, 0), (123, 60), (0, 89.9999), (40, -89.9)])
def test_one_arcsec_is_the_limit(ra, dec, separation, found):
    start = SkyCoord(ra, dec, unit="deg")
    pair = SkyCoord([start, start.directional_offset_by(200 * units.deg, separation * units.arcsec)])
    assert len(problems(ra=pair.ra.deg, dec=pair.dec.deg)) == found


@pytest.mark.parametrize("same", [False, True])
def test_a_large_catalogue_takes_little_memory(same):
    """Also one whose converter put everything at 0, 0: of all pairs there would be 10^10."""
    rng = np.random.default_rng(0)
    count = 100_000
    table = typed_metadata(
        objects(ra=rng.uniform(0, 360, count) * (not same), dec=rng.uniform(-60, 60, count) * (not same))
    )
    tracemalloc.start()
    found = validate_metadata(table)
    other = match_positions(table, table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * count
    assert len(found) == count if same else len(found) < 20
    assert len(other) == count and (other["separation"] == 0).all()


def test_matches_against_astropy():
    (ra, dec), (other_ra, other_dec) = scattered(900), scattered(800, seed=1)
    other_ra[:200], other_dec[:200] = ra[:200], dec[:200] * (1 - 1e-7)
    left, right = objects(ra=ra, dec=dec), objects(ra=other_ra, dec=other_dec)
    right["object"] = "r" + right["object"]
    found = match_positions(left, right, radius=2.0)
    here, there = SkyCoord(ra, dec, unit="deg"), SkyCoord(other_ra, other_dec, unit="deg")
    rows, others, distance, _ = search_around_sky(here, there, 2 * units.arcsec)
    pairs = pd.DataFrame({"row": rows, "other": others, "distance": distance.arcsec})
    pairs = pairs.sort_values("distance").drop_duplicates("row").sort_values("row")
    assert len(found) > 200 and found["object_left"].tolist() == [f"o{row}" for row in pairs["row"]]
    assert found["object_right"].tolist() == [f"ro{row}" for row in pairs["other"]]
    np.testing.assert_allclose(found["separation"], pairs["distance"], atol=1e-9)
    assert match_positions(right, left, radius=2.0)["object_left"].str.startswith("ro").all()


def test_matches_of_nothing():
    nowhere = objects(ra=[np.nan], dec=[3.0])
    somewhere = objects(ra=[1], dec=[1])
    for left, right, count in (
        (nowhere, nowhere, 0),
        (nowhere, somewhere, 0),
        (somewhere, nowhere, 0),
        (somewhere, somewhere, 1),
    ):
        found = match_positions(left, right)
        assert list(found.columns) == ["object_left", "object_right", "separation"] and len(found) == count
    with pytest.raises(Mistake, match="radius -1: expected a positive"):
        match_positions(nowhere, nowhere, -1)


def test_summary_says_what_is_known():
    table = objects(
        redshift=[0.1, 0.3, np.nan, 20],
        source_catalog=["castles"] * 3 + ["bologna"],
        label_source=["obs:castles"] * 3 + [""],
        dec=[91, 92, np.nan, np.nan],
        castles_b=[1] * 4,
    )
    lines = metadata_summary(table, validate_metadata(table))
    assert lines[0] == "4 objects (castles 3, bologna 1); labels: obs:castles 3"
    assert (
        "  redshift: known of 75.0%, 0.1 to 20, median 0.3" in lines
        and "  1 further columns of the catalogue" in lines
    )
    assert "5 problems" in lines
    assert "  impossible, dec: 2, the first 'o0' with 91.0 (impossible: must be -90 to 90 deg)" in lines
    assert (
        "  out of range, redshift: 1, the first 'o3' with 20.0 (out of range: expected -0.01 to 15)" in lines
    )
    assert (
        metadata_summary(
            typed_metadata(pd.DataFrame({"object": []})), validate_metadata(pd.DataFrame({"object": []}))
        )[0]
        == "0 objects; labels: none"
    )


def test_arrays():
    table = typed_metadata(
        objects(
            redshift=[0.5, np.nan, np.inf, 1e300],
            instrument=["a"] * 4,
            castles_n=[1, 2, 3, 4],
            castles_m=pd.array([1, None, 3, 4], "Int64"),
        )
    )
    values, present = metadata_arrays(table, ["castles_n", "redshift", "seeing", "castles_m"])
    assert values.dtype == np.float32 and present.dtype == bool and values.shape == present.shape == (4, 4)
    np.testing.assert_array_equal(values, [[1, 0.5, 0, 1], [2, 0, 0, 0], [3, 0, 0, 3], [4, 0, 0, 4]])
    np.testing.assert_array_equal(present, [[1, 1, 0, 1], [1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]])
    assert metadata_arrays(table, [])[0].shape == (4, 0)
    for column, message in (
        ("redshfit", "'redshfit' is not there, did you mean 'redshift'"),
        ("instrument", "'instrument' holds text: expected one of ra, dec"),
    ):
        with pytest.raises(Mistake, match=message):
            metadata_arrays(table, [column])


def moving(count=40, **columns):
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, count), rng.uniform(-80, 80, count)
    return typed_metadata(objects(ra=ra, dec=dec, **columns))


def test_things_that_move_are_matched_at_one_epoch():
    """Against the closed form of small motions: pmra cos-corrected, times the years between."""
    rng = np.random.default_rng(6)
    pmra, pmdec = rng.normal(0, 400, 40), rng.normal(0, 400, 40)
    now = moving(pmra=pmra, pmdec=pmdec, epoch=np.full(40, 2016.0))
    then = now[["object"]].assign(
        ra=(now["ra"] - 16 * pmra / 3.6e6 / np.cos(np.radians(now["dec"]))) % 360,
        dec=now["dec"] - 16 * pmdec / 3.6e6,
        epoch=2000.0,
    )
    then = typed_metadata(then)
    assert len(match_positions(now, then, 1.0)) < 5
    left, right, lines = at_one_epoch(now, then, ("gaia", "old"))
    found = match_positions(left, right, 1.0)
    assert found["object_left"].equals(found["object_right"]) and len(found) == 40
    assert found["separation"].max() < 0.01 and right is then
    assert "gaia: 40 of 40 objects moved to epoch 2000" in lines
    assert any("old: epoch 2000 of 40 objects, without proper motions" in line for line in lines)
    other, moved, _ = at_one_epoch(then, now)  # whichever is the first
    assert match_positions(other, moved, 1.0)["separation"].max() < 0.01


@pytest.mark.parametrize(
    "left, right, words",
    [
        (dict(pmra=1.0, pmdec=1.0), {}, "pmra and pmdec of 40 objects not used: their epoch is not known"),
        (dict(pmra=1.0, pmdec=1.0, epoch=2016.0), {}, "right does not tell its epoch"),
        (dict(epoch=2016.0), dict(epoch=1950.0), "left: epoch 2016 of 40 objects, without proper motions"),
        (dict(pmra=1.0, pmdec=1.0, epoch=57388.0), dict(epoch=2000.0), "no year (57388), not used: 40"),
    ],
)
def test_motions_that_cannot_be_used_are_named(left, right, words):
    one, other = (
        moving(**{name: np.full(40, value) for name, value in side.items()}) for side in (left, right)
    )
    after, before, lines = at_one_epoch(one, other)
    assert after is one and before is other and any(words in line for line in lines), lines


def test_nothing_is_said_of_things_that_stand_still():
    assert at_one_epoch(moving(), moving())[2] == []


def test_the_command_matches_at_one_epoch(tmp_path, capsys):
    """A star of 3 arcsec a year, in a table of 2016 and one of 2000."""
    import convert

    places = dict(
        new=("ra,dec,pmra,pmdec,ref_epoch", "10,20,0,3000,J2016.0"),
        old=("ra,dec,epoch", "10,19.98666667,2000"),
    )
    pixels = np.random.default_rng(1).normal(size=(8, 8)).astype("f4")
    for name, (header, row) in places.items():
        (tmp_path / name).mkdir()
        fits.PrimaryHDU(pixels).writeto(tmp_path / name / f"{name}_g.fits")
        (tmp_path / f"{name}.csv").write_text(f"id,{header}\n{name},{row}\n")
        source = ["--input", str(tmp_path / name), "--table", str(tmp_path / f"{name}.csv")]
        convert.main(["fits", *source, "--output", str(tmp_path / f"store_{name}")])
    stores = [str(tmp_path / "store_new"), str(tmp_path / "store_old")]
    convert.main(["match", "--input", *stores, "--output", str(tmp_path / "m.csv")])
    found = pd.read_csv(tmp_path / "m.csv")
    assert found[["object_left", "object_right"]].values.tolist() == [["new", "old"]]
    assert found["separation"][0] < 0.01 and "1 of 1 objects moved to epoch 2000" in capsys.readouterr().err
