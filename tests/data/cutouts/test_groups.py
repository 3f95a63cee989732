"""data/cutouts/groups.py: one galaxy under several ids, against brute force on the sphere; places that are
none.
"""

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import angular_separation

from data.cutouts.groups import group_names, joined_names


def named(about, radius=1.0):
    objects = about["object"].drop_duplicates().to_numpy(dtype=object)
    return joined_names(objects, group_names(objects, about), about, radius)


def sky(count, seed=0, ra=None, dec=None):
    rng = np.random.default_rng(seed)
    ra = rng.uniform(0, 360, count) if ra is None else ra
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, count))) if dec is None else dec
    return pd.DataFrame(dict(object=[f"o{number:06d}" for number in range(count)], ra=ra, dec=dec))


def by_hand(table, radius):
    """The smallest id of all that a chain of neighbours leads to."""
    ra, dec = np.radians(table[["ra", "dec"]].to_numpy()).T
    apart = np.degrees(angular_separation(ra[:, None], dec[:, None], ra, dec)) * 3600
    near = apart <= radius
    reached = np.linalg.matrix_power(near.astype(float), 64) > 0
    return table["object"].to_numpy()[reached.argmax(1)]


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_chains_of_neighbours_are_one_group(radius):
    """Around the poles and both sides of RA 0, too."""
    rng = np.random.default_rng(3)
    ra = np.concatenate([rng.normal(0, 0.0006, 60) % 360, rng.uniform(0, 360, 60)])
    dec = np.concatenate([rng.normal(0, 0.0006, 60), 90 - rng.exponential(0.0006, 60)])
    table = sky(120, ra=ra, dec=dec)
    names, lines = named(table, radius)
    assert names.tolist() == by_hand(table, radius).tolist()
    together = pd.Series(names).duplicated(keep=False).sum()
    assert f"under another id: {together:,}, in" in lines[0]


def test_far_objects_are_alone_and_nothing_is_said():
    table = sky(500)
    names, lines = named(table)
    assert names.tolist() == table["object"].tolist() and lines == []


def test_a_group_has_one_name_and_takes_in_the_object_it_is_called_by():
    table = pd.DataFrame(dict(object=["a", "b", "c", "d"], group=["", "a", "g ", "g"]))
    names, lines = named(table)
    assert names.tolist() == ["a", "a", "g", "g"]
    assert lines == ["groups: 4 objects in 2 groups, each in one split (column `group`)"]


def test_a_place_joins_a_group_and_keeps_its_name():
    table = pd.DataFrame(
        dict(object=["a", "b", "c"], group=["", "g", "g"], ra=[10.0, 10.0, 50.0], dec=[1.0, 1.0001, 2.0])
    )
    assert named(table)[0].tolist() == ["g", "g", "g"]
    assert named(table, 0)[0].tolist() == ["a", "g", "g"]  # 0: off


@pytest.mark.parametrize("ra, dec", [(0.0, 0.0), (np.nan, np.nan), (-999.0, -999.0), (99.0, 99.0)])
def test_places_that_are_none(ra, dec):
    table = sky(2000, ra=np.full(2000, ra), dec=np.full(2000, dec))
    names, lines = named(table)
    assert names.tolist() == table["object"].tolist() and lines == []


def test_the_centre_of_a_field_is_no_galaxy_but_copies_of_one_are():
    field, copies = sky(4000, ra=np.full(4000, 150.1), dec=np.full(4000, 2.2)), sky(100, ra=7.0, dec=-1.0)
    table = pd.concat([field, copies.assign(object="copy_" + copies["object"])])
    names, lines = named(table)
    assert names[:4000].tolist() == field["object"].tolist() and set(names[4000:]) == {"copy_o000000"}
    assert "more than 100 ids have: 4,000, the first at RA 150.10000, Dec 2.20000" in lines[0]
    assert "100, in 1 groups of up to 100" in lines[1]


def test_adding_objects_moves_nobody_but_those_it_joins():
    before = sky(300)
    more = pd.concat(
        [before.iloc[[5]].assign(object="zz"), sky(50, seed=8).assign(object=lambda t: "n" + t["object"])]
    )
    alone, together = named(before)[0], named(pd.concat([more, before]))[0]
    assert together[len(more) :].tolist() == alone.tolist() and together[0] == "o000005"


def test_crowds_neither_explode_nor_join_everything():
    """100,000 places within some arcsec of each other have 5 10^9 pairs."""
    rng = np.random.default_rng(1)
    table = sky(100_000, ra=150 + rng.normal(0, 0.002, 100_000), dec=rng.normal(0, 0.002, 100_000))
    names, lines = named(table, 1.0)
    assert "taken for none" in lines[0] and (names == table["object"]).mean() > 0.5
