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
