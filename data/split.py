"""Which split an object belongs to: a pure function of its id and the split seed,
on which all bands and runs agree.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pandas as pd

from data.names import is_blind
from utils.config import Options, option
from utils.mistake import Mistake

SPLITS = ("train", "val", "test")
CLASSES = {1: "lenses", 0: "non-lenses"}


@dataclass(frozen=True)
class SplitOptions(Options):
    """How a task's objects are split; a task may have other defaults."""

    split_seed: int = 42  # of the split by object; the same for every --seed of an ensemble
    train_frac: float = option(0.70, least=0, most=1)  # share of objects to train on
    val_frac: float = option(0.15, least=0, most=1)  # share to choose the epoch on, and a threshold
    test_frac: float = option(0.15, least=0, most=1)  # share that is only judged


def split_of(objects, options: SplitOptions, blind: bool = True) -> np.ndarray:
    """The split of each object by a hash of (split_seed, id): bands stay together, and new files move nobody.

    objects: [N] str, object ids.
    Returns: [N] str of "train", "val", "test" or "" (left out where the fractions sum to less than 1); with
        `blind`, ids of the challenge's blind test are "test" whatever the fractions.
    Raises: Mistake for fractions whose sum is over 1.
    """
    train_frac, val_frac, test_frac = options.train_frac, options.val_frac, options.test_frac
    total = train_frac + val_frac + test_frac
    if total > 1 + 1e-9:
        raise Mistake(
            f"--train_frac {train_frac} + --val_frac {val_frac} + --test_frac {test_frac} = {total:.6g}: the "
            "sum must not exceed 1, make one smaller"
        )
    if total > 1 - 1e-9:
        total = 1.0  # .7 + .15 + .15 in floating point must not leave an object out
    number, unique = pd.factorize(np.asarray(objects, dtype=object))
    edges = [train_frac, train_frac + val_frac, total]
    of_unique = np.array([*SPLITS, ""])[
        np.searchsorted(edges, _uniform(unique, "split", options.split_seed), side="right")
    ]
    if blind:
        of_unique[np.array([is_blind(object_id) for object_id in unique], dtype=bool)] = "test"
    return of_unique[number]


def fill_empty_splits(
    of_unit: np.ndarray,
    units: np.ndarray,
    has: dict[int, np.ndarray],
    fixed: np.ndarray,
    options: SplitOptions,
) -> tuple[np.ndarray, list[str]]:
    """The splits of units (objects, or groups of them), such that a rare class is in each split that is asked
    for: of 11 lenses chance leaves a split none in one case of four.

    of_unit: [U] the split by hash. units: [U] str, what was hashed. has: class -> [U] bool, whether a unit
        has examples of it. fixed: [U] bool, units that must not move.
    Returns: the splits, and a line for each class that a unit was moved for. A split that has none of a class
        gets the one unit whose hash is nearest to its share, from a split that keeps one; where a class has
        fewer units than there are splits, training comes first, then validation. Nobody else moves, and
        nobody at all where each split has some.
    """
    of_unit = of_unit.copy()
    ends = np.cumsum([options.train_frac, options.val_frac, options.test_frac])
    shares = dict(zip(SPLITS, zip([0.0, *ends[:2].tolist()], ends.tolist())))
    rank = {name: number for number, name in enumerate(SPLITS)} | {"": len(SPLITS)}
    lines = []
    for label, name in CLASSES.items():
        mine = np.flatnonzero(has[label])
        moves = []
        for split, (low, high) in shares.items():
            if high <= low or not len(mine) or (of_unit[mine] == split).any():
                continue
            spare = mine[~fixed[mine]]
            spare = spare[_may_leave(of_unit, spare, has, rank, split)]
            if not len(spare):
                continue
            place = _uniform(units[spare], "split", options.split_seed)
            best = spare[np.argmin(np.maximum(low - place, place - high))]
            moves.append(f"{units[best]} from {of_unit[best] or 'those left out'} to {split}")
            of_unit[best] = split
        if moves:
            lines.append(
                f"only {len(mine)} objects or groups of {name}, by hash none of them in some split; moved: "
                + ", ".join(moves)
            )
    return of_unit, lines


def _may_leave(
    of_unit: np.ndarray, spare: np.ndarray, has: dict[int, np.ndarray], rank: dict[str, int], to: str
) -> np.ndarray:
    """[n] bool: units whose split keeps another of each of their classes, or comes after the one in need."""
    allowed = np.ones(len(spare), dtype=bool)
    for here in has.values():
        counts = {split: int((of_unit[here] == split).sum()) for split in rank}
        keeps = {split: not split or counts[split] > 1 or rank[split] > rank[to] for split in rank}
        kept = pd.Series(of_unit[spare]).map(keeps).to_numpy(dtype=bool)
        allowed &= kept | ~here[spare]
    return allowed


def kept_share(objects, split_seed: int, fraction: float) -> np.ndarray:
    """Which objects stay when a fraction of a split is wanted:
    nested, a larger fraction holds all of a smaller one.

    objects: [N] str, object ids; fraction: 0 to 1. Returns: [N] bool.
    """
    number, unique = pd.factorize(np.asarray(objects, dtype=object))
    return (_uniform(unique, "take", split_seed) < fraction)[number]


def stratification(index: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """How evenly the splits share each (domain, label), and a warning for each share that chance does not
    explain.

    index: columns object, domain, label, split; unlabelled objects are not counted.
    Returns: one row a (split, domain, label) with its objects, those expected were the split's share the same
        in all groups, and the departure in binomial sigma; and a line for each departure over 4 sigma.
    """
    labelled = index[(index["label"] >= 0) & (index["split"] != "")].drop_duplicates(
        ["object", "domain", "label"]
    )
    groups = labelled.groupby(["domain", "label"])
    rows, warnings = [], []
    for split in SPLITS:
        share = float((labelled["split"] == split).mean()) if len(labelled) else 0.0
        for (domain, label), group in groups:
            count = int((group["split"] == split).sum())
            expected = share * len(group)
            sigma = (count - expected) / np.sqrt(expected * (1 - share)) if 0 < share < 1 else 0.0
            rows.append((split, domain, int(label), count, round(expected, 1), round(float(sigma), 2)))
            if abs(sigma) > 4:
                warnings.append(
                    f"split {split}: {count} objects of {domain} with label {label}, expected about "
                    f"{expected:.0f} ({sigma:+.1f} sigma)"
                )
    return pd.DataFrame(rows, columns=["split", "domain", "label", "objects", "expected", "sigma"]), warnings


def _uniform(ids, purpose: str, split_seed: int) -> np.ndarray:
    """[N] float64 in [0, 1), one blake2b an id; the purpose keeps taking a fraction independent
    of splitting.
    """
    prefix = f"{purpose} {split_seed} ".encode()
    digests = b"".join(
        [blake2b(prefix + str(object_id).encode(), digest_size=8).digest() for object_id in ids]
    )
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)) * 2.0**-53
