"""Which objects are one galaxy, or share its pixels, so that no two splits may have a part of it: those of
one `group`, and those at one place on the sky under other ids.
"""

import numpy as np
import pandas as pd

from utils.messages import first_of

MOST_AT_ONE_PLACE = 100  # ids: a place that more have is that of a field, or stands for "unknown"
MOST_NEIGHBOURS = 100  # of an object, in the mean: with more the radius links everything to everything


def group_names(objects: np.ndarray, about: pd.DataFrame | None) -> np.ndarray:
    """[U] str, the name by whose hash each object is split: its `group`, where it has one, else its id.

    objects: [U] str, each once. about: a row an object, with `object` and, where it is known, `group`.
    """
    names = np.asarray(objects, dtype=object).copy()
    if about is not None and "group" in about:
        column = about.drop_duplicates("object").set_index("object")["group"]
        texts = column.reindex(objects).fillna("").astype(str).str.strip().to_numpy(dtype=object)
        names[texts != ""] = texts[texts != ""]
    return names


def joined_names(
    objects: np.ndarray, names: np.ndarray, about: pd.DataFrame | None, radius: float
) -> tuple[np.ndarray, list[str]]:
    """(`names` [U], the same for all objects that are linked by places within `radius` arcsec of each other;
    lines for the log).

    about: with `object`, `ra` and `dec` [deg] as far as they are known. 0, 0 is no place.
    A joined group is called by the smallest `group` in it, or else by the smallest id, so that whoever is
    added later moves only what it is joined to.
    """
    of_group = names != objects
    lines = []
    if of_group.any():
        groups = pd.unique(names[of_group])
        lines.append(
            f"groups: {int(pd.Series(names).isin(groups).sum()):,} objects in {len(groups):,} groups, each "
            "in one split (column `group`)"
        )
    if not radius or about is None or not {"ra", "dec"} <= set(about.columns):
        return names, lines
    number, unique = pd.factorize(names)
    pairs, more = _near(objects, number, about, radius)
    lines += more
    if not len(pairs):
        return names, lines
    from scipy.sparse import coo_array  # 0.1 s that those without duplicates need not pay
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=np.int8), pairs.T), shape=(len(unique), len(unique)))
    count, component = connected_components(links, directed=False)
    grouped = np.zeros(len(unique), dtype=bool)
    grouped[number[of_group]] = True
    order = np.lexsort((pd.Series(unique).rank(method="first").to_numpy(), ~grouped, component))
    first = order[np.unique(component[order], return_index=True)[1]]
    sizes = np.bincount(component[number], minlength=count)
    linked = np.unique(component[pairs[:, 0]])
    lines.append(
        f"objects within {radius:g} arcsec of another under another id: {int(sizes[linked].sum()):,}, in "
        f"{len(linked):,} groups of up to {int(sizes[linked].max()):,}, each in one split "
        f"(--match_radius; {first_of(unique[first[linked]].tolist())})"
    )
    return unique[first[component]][number], lines


def _near(
    objects: np.ndarray, number: np.ndarray, about: pd.DataFrame, radius: float
) -> tuple[np.ndarray, list[str]]:
    """([P, 2] numbers of names that share a place, lines)."""
    table = about.drop_duplicates("object").set_index("object")[["ra", "dec"]].reindex(objects)
    ra, dec = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in ("ra", "dec"))
    known = np.isfinite(ra) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360) & ((ra != 0) | (dec != 0))
    rows = np.flatnonzero(known)
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), []
    east, north = np.radians(ra[rows]), np.radians(dec[rows])
    point = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], 1)
    chord = 2 * np.sin(np.radians(radius / 3600) / 2)

    # All within one cell are within the radius of each other: one link each, however many there are.
    cells = pd.DataFrame(np.floor(point * (np.sqrt(3) / chord)))
    cell = cells.groupby([0, 1, 2], sort=False).ngroup().to_numpy()
    ids = pd.DataFrame(dict(cell=cell, name=number[rows])).drop_duplicates()["cell"].value_counts()
    crowded = np.isin(cell, ids.index[ids > MOST_AT_ONE_PLACE].to_numpy())
    lines = []
    if crowded.any():
        some = rows[np.flatnonzero(crowded)[0]]
        lines.append(
            f"objects at a place that more than {MOST_AT_ONE_PLACE} ids have: {int(crowded.sum()):,}, the "
            f"first at RA {ra[some]:.5f}, Dec {dec[some]:.5f}; it is taken for none (if they are one "
            "galaxy, say so in a column `group`)"
        )
    rows, point, cell = rows[~crowded], point[~crowded], cell[~crowded]
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), lines
    _, leader, of_cell = np.unique(cell, return_index=True, return_inverse=True)
    same = np.stack([number[rows], number[rows[leader[of_cell]]]], 1)
    from scipy.spatial import cKDTree  # as above

    tree = cKDTree(point)
    if tree.count_neighbors(tree, chord) > (1 + MOST_NEIGHBOURS) * len(rows):
        return np.empty((0, 2), np.int64), [
            *lines,
            f"places on the sky: more than {MOST_NEIGHBOURS} others within {radius:g} arcsec of each in the "
            "mean, so they tell nothing of who is the same: not used (a smaller --match_radius, or a column "
            "`group`)",
        ]
    near = number[rows[tree.query_pairs(chord * (1 + 1e-9), output_type="ndarray")]]
    pairs = np.concatenate([same, near.reshape(-1, 2)])
    return pairs[pairs[:, 0] != pairs[:, 1]], lines
