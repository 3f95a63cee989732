"""Long light curves made shorter: neighbouring points joined, so that no photon is left out."""

import numpy as np
import torch

from physics.count_rates import is_upper_limit, source_rate

WIDEST = 2  # in units of a typical bin: the longest gap that a bin may lie across
KNOWN = 1e-3  # area ratio at which the background of a bin is as good as known


def binned_curve(fields: dict[str, np.ndarray], counted: bool, most: int) -> dict[str, np.ndarray]:
    """The fields of a curve of T points, with at most `most` of them: each a run of neighbours.

    fields: as a pack has them, [T] or [T, C]. Counts, background and exposure are added up and the rate is
    estimated anew (`source_rate`, the background taken as known); of rates without counts it is the mean,
    with the errors in quadrature. A point's time is the mean of those joined, its width their span.
    """
    start = starts_of_bins(fields["time"], most)
    observed = fields["observed"]
    number = np.add.reduceat(observed, start, axis=0, dtype=np.int64)
    size = np.diff(np.append(start, len(observed)))
    joined = {"observed": number > 0}

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(np.float64), start, axis=0)

    begin = fields["time"][start] - fields["width"][start] / 2
    last = start + size - 1
    joined["time"] = total(fields["time"] - fields["time"][0]) / size + fields["time"][0]
    joined["width"] = fields["time"][last] + fields["width"][last] / 2 - begin
    for name in ("counts", "background", "exposure"):
        joined[name] = total(fields[name])
    if counted:
        there = joined["observed"]
        counts, background, exposure = (
            torch.from_numpy(joined[name][there]) for name in ("counts", "background", "exposure")
        )
        estimates = source_rate(counts, background / KNOWN, KNOWN, exposure)
    else:
        joined["exposure"] = joined["observed"]
        estimates = mean_of_rates(fields, start, number)
        there = np.ones_like(observed[: len(start)])
    for name, values in zip(("rate", "error_low", "error_up"), estimates):
        joined[name] = np.zeros(number.shape)
        joined[name][there] = np.asarray(values).reshape(-1)
    return {name: joined[name].astype(fields[name].dtype) for name in fields}


def mean_of_rates(
    fields: dict[str, np.ndarray], start: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean rate of each run of points and its errors [N, C]; a mean of upper limits is one."""
    count = np.maximum(number, 1)
    rate, low, up = (fields[name].astype(np.float64) for name in ("rate", "error_low", "error_up"))
    # of what has any unit the squares may be too small
    unit = max(np.abs(rate).max(initial=0), up.max(initial=0)) or 1.0
    mean = np.add.reduceat(rate, start, axis=0) / count
    error_low, error_up = (
        np.sqrt(np.add.reduceat((error / unit) ** 2, start, axis=0)) * unit / count for error in (low, up)
    )
    limit = is_upper_limit(torch.from_numpy(rate), torch.from_numpy(low)).numpy() & fields["observed"]
    limits = (np.add.reduceat(limit, start, axis=0, dtype=np.int64) == number) & (number > 0)
    return mean, np.where(limits, mean, error_low), error_up


def starts_of_bins(time: np.ndarray, most: int) -> np.ndarray:
    """[N] int64, the first points of at most `most` runs, none of which lies across a gap much longer than
    itself unless there are too many gaps.
    """
    points = len(time)
    fewest = -(-points // most)
    gaps = np.diff(time)
    size = float(fewest)
    while size <= 2 * fewest + 1:
        joined = int(np.ceil(size))
        after_gap = np.flatnonzero(gaps > WIDEST * joined * np.median(gaps)) + 1
        segment = np.append(0, after_gap)
        place = np.arange(points) - np.repeat(segment, np.diff(np.append(segment, points)))
        start = np.flatnonzero(place % joined == 0)
        if len(start) <= most:
            return start
        size *= 1.2
    return np.arange(0, points, fewest)
