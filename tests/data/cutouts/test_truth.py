"""parameters.fits: what the challenge says of its objects, as targets and as metadata."""

import os

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from data.cutouts import buckets, metadata, store, truth as parameters
from utils.mistake import Mistake


@pytest.fixture(scope="module")
def table(challenge):
    return parameters.read_truth(
        [str(path) for bucket in challenge.iterdir() if bucket.is_dir() for path in bucket.glob("*_g.fits")]
    )


def test_every_object_of_the_folders_has_a_row(challenge, table):
    truth = pd.read_csv(challenge / "objects.csv")
    assert sorted(table["object"]) == sorted(truth["id"])


def test_components_are_those_of_the_table(challenge, table):
    theirs = Table.read(challenge / "slsim_lenses" / "parameters.fits")
    row = theirs[3]
    found = parameters.truth_components(
        table, np.array([row["Lens ID"], "D1_N_00000001", "nobody"], dtype=object), ("Rein", "ell_m", "zsrc")
    )
    angle = 2 * np.deg2rad(row["ell_m_PA"])
    np.testing.assert_allclose(
        found[0],
        [np.log(row["Rein"]), row["ell_m"] * np.cos(angle), row["ell_m"] * np.sin(angle), row["zsrc"]],
        rtol=1e-5,
    )
    assert np.isnan(found[1:]).all()  # no lens there, and no such object


def test_what_the_challenge_fills_in_is_not_known():
    table = pd.DataFrame(dict(object=["a", "b", "c"], Rein=[1.0, -999.0, -99.0], zlens=[0.5, 0.6, np.nan]))
    found = parameters.truth_components(
        table, np.array(["a", "b", "c"], dtype=object), ("Rein", "zlens", "zsrc")
    )
    assert np.isfinite(found).tolist() == [[True, True, False], [False, True, False], [False, False, False]]


def test_metadata_are_those_of_lenses_and_others(challenge, table):
    known = metadata.typed_metadata(parameters.truth_metadata(table)).set_index("object")
    lens, other = (
        Table.read(challenge / f"hsc_{kind}" / "parameters.fits")[0] for kind in ("lenses", "nonlenses")
    )
    assert (
        known.loc[lens["Lens ID"], "redshift"] == lens["zlens"]
        and known.loc[other["Object ID"], "redshift"] == other["z_central"]
    )
    assert (
        known.loc[lens["Lens ID"], "ra"] == lens["RA"]
        and known.loc[other["Object ID"], "magnitude_i"] == other["mag_lens_i"]
    )


def test_an_id_that_is_there_twice_is_nobodys(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Table({"Lens ID": ["x", "y" + folder], "Rein": [1.0, 2.0]}).write(
            tmp_path / folder / "parameters.fits"
        )
    table = parameters.read_truth([str(tmp_path / folder / "1_g.fits") for folder in ("a", "b", "without")])
    assert table["object"].tolist() == ["ya", "yb"]
    assert "1 ids are there more than once, so nothing of them is known (x)" in capsys.readouterr().err


def test_texts_groups_undefined_cells_and_placeholders(tmp_path, capsys):
    columns = [
        fits.Column("Object ID", "4A", array=np.array(["a", "b", "c"])),
        fits.Column("group", "4A", array=np.array(["m", "", "m"])),
        fits.Column("note", "9A", array=np.array(["x", "y", "z"])),
        fits.Column("RA", "D", array=np.array([99.0, 10.0, 20.0])),
        fits.Column("Dec", "I", null=-7, array=np.array([5, -7, 9], dtype=">i2")),
        fits.Column("mag_lens_g", "E", array=np.array([20.0, 99.0, 9999.0])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "parameters.fits")
    table = parameters.read_truth([str(tmp_path / "1_g.fits")])
    assert "columns not used, as they hold no numbers: note" in capsys.readouterr().err
    known = metadata.typed_metadata(parameters.truth_metadata(table))
    assert known["group"].tolist() == ["m", "", "m"] and known["ra"].tolist() == [99, 10, 20]
    assert np.isnan(known["dec"]).tolist() == [False, True, False]
    assert np.isnan(known["magnitude_g"]).tolist() == [False, True, True]


@pytest.mark.parametrize("content", [b"", b"SIMPLE  = nothing", None])
def test_a_damaged_table_is_one_line(tmp_path, content):
    if content is None:
        Table({"name": ["x"]}).write(tmp_path / "parameters.fits")
    else:
        (tmp_path / "parameters.fits").write_bytes(content)
    with pytest.raises(Mistake, match="is not the challenge's table of parameters") as caught:
        parameters.read_truth([str(tmp_path / "1_g.fits")])
    assert "\n" not in str(caught.value)


def test_without_tables_nothing_is_known(tmp_path):
    table = parameters.read_truth([str(tmp_path / "1_g.fits")])
    assert (
        not len(table)
        and np.isnan(parameters.truth_components(table, np.array(["x"], dtype=object), ("Rein",))).all()
    )
    assert not len(metadata.typed_metadata(parameters.truth_metadata(table)))


def test_a_store_that_was_packed_elsewhere_still_knows_them(challenge, table, tmp_path, monkeypatch):
    monkeypatch.chdir(challenge)
    inventory = buckets.inventory_of_buckets({"slsim_lenses": "slsim_lenses"})
    assert not inventory["path"].map(os.path.isabs).any()
    store.pack_cutouts(inventory, tmp_path / "store", say=lambda line: None)
    monkeypatch.chdir(tmp_path)
    found = parameters.read_truth(store.open_store("store").index["path"])
    assert len(found) and set(found["object"]) <= set(table["object"])
