"""convert.py: the command line of catalogues, and `match` as docs/match.md says it."""

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits

import convert
from utils.mistake import Mistake


def store_of(folder, **columns):
    """A store of an image an object, with these columns of a table."""
    table = pd.DataFrame(columns)
    (folder / "images").mkdir(parents=True)
    for name in table["object"]:
        fits.PrimaryHDU(np.arange(16, dtype="f4").reshape(4, 4)).writeto(folder / "images" / f"{name}_g.fits")
    table.to_csv(folder / "t.csv", index=False)
    mapped = [f"{name}={name}" for name in table.columns if name not in ("object", "ra", "dec")]
    options = ["--columns", *mapped] if mapped else []
    where = ["--input", str(folder / "images"), "--table", str(folder / "t.csv")]
    convert.main(["fits", *where, "--output", str(folder / "store"), *options])
    return str(folder / "store")


def matched(tmp_path, left, right, radius="1"):
    output = str(tmp_path / "m.csv")
    convert.main(["match", "--input", left, right, "--output", output, "--radius", radius])
    return pd.read_csv(output)


def test_nearest_both_ways_and_what_is_not_used(tmp_path, capsys):
    arcsec = 1 / 3600
    left = store_of(
        tmp_path / "a",
        object=["a0", "a1", "a2", "a3"],
        ra=[10.0, 10.0, 20.0, np.nan],
        dec=[60.0, 60.0 + 0.6 * arcsec, 0.0, np.nan],
        parallax=[1.0, 2, 3, 4],
        ref_epoch=[2016.0] * 4,
    )
    right = store_of(
        tmp_path / "b",
        object=["b0", "b1", "b2"],
        ra=[10.0 + 0.8 * arcsec, 20.0, 20.0],
        dec=[60.0, 0.9 * arcsec, -0.5 * arcsec],
    )
    capsys.readouterr()
    found = matched(tmp_path, left, right)
    # a0 lies 0.4" from b0 (cos 60), a1 0.72": both have it for their nearest, b0 has a0
    assert found[["object_left", "object_right", "mutual"]].values.tolist() == [
        ["a0", "b0", True],
        ["a1", "b0", False],
        ["a2", "b2", True],
    ]
    places = SkyCoord([10, 10, 20], [60, 60 + 0.6 * arcsec, 0], unit="deg").separation(
        SkyCoord([10 + 0.8 * arcsec] * 2 + [20], [60, 60, -0.5 * arcsec], unit="deg")
    )
    assert found["separation"].to_numpy() == pytest.approx(places.to_value(units.arcsec), abs=1e-9)
    out, err = capsys.readouterr()
    assert "3 of 4 objects" in out and "2 are the nearest of each other, 2 share theirs" in out
    assert "objects without ra and dec, not matched: 1 (a3)" in err
    assert "survey_parallax not used: places are compared as they are" in err
    assert "epoch 2016 of 4 objects, without proper motions: places taken as they are" in err
    back = matched(tmp_path, right, left)
    assert back[["object_left", "object_right", "mutual"]].values.tolist() == [
        ["b0", "a0", True],
        ["b1", "a2", False],
        ["b2", "a2", True],
    ]
    assert len(matched(tmp_path, left, right, "0.41")) == 1


def test_a_store_without_places_is_refused(tmp_path):
    one = store_of(tmp_path / "a", object=["x"], ra=[1.0], dec=[2.0])
    none = store_of(tmp_path / "b", object=["x"])
    with pytest.raises(Mistake, match="none of its 1 objects has ra and dec"):
        matched(tmp_path, one, none)


@pytest.mark.parametrize("name", ["pmra", "gaia_pm_dec", "EPOCH", "gaia_ref_epoch", "pm"])
def test_names_of_motions(name):
    assert convert.MOTION.search(name)
    assert not any(
        convert.MOTION.search(other) for other in ("ra", "galaxy_zoo_bump", "epochs_used", "pixel_scale")
    )
