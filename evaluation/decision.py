"""What validation settles and test takes over: weights of the members, calibration, threshold;
and the files that keep it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import calibration, conformal, predictions, stacking, thresholds
from utils.files import read_json, write_json


class Decision(NamedTuple):
    """combine: how members are combined. What is None (NaN) is not used, or not settled yet."""

    combine: str
    weights: dict | None = None
    calibration: dict | None = None
    threshold: float = np.nan
    sets: conformal.Thresholds | None = None

    def combined(self, probs: np.ndarray, paths: list[str]) -> np.ndarray:
        """[N] from probs [members, N] of the tables at `paths`; not calibrated."""
        if not self.weights:
            return predictions.combine_probabilities(probs, self.combine)
        stacking.check_members(self.weights, paths)
        return stacking.apply_stack(self.weights, probs)

    def calibrated(self, prob) -> np.ndarray:
        """[N] from what is combined, and fused, where it is judged."""
        return (
            calibration.apply_calibration(self.calibration, predictions.logit(prob))
            if self.calibration
            else np.asarray(prob)
        )


def read_decision(
    combine: str, weights_file: str, calibration_file: str, threshold_file: str, warn: Callable[[str], None]
) -> Decision:
    """What earlier runs settled, as far as their files are given."""
    decision = Decision(combine)
    if weights_file:
        decision = decision._replace(
            weights=stacking.checked(
                read_json(weights_file, "weights_file", "ensemble.py"),
                combine,
                f"--weights_file {weights_file!r}",
            )
        )
    if calibration_file:
        decision = decision._replace(
            calibration=calibration.checked(read_json(calibration_file, "calibration_file", "ensemble.py"))
        )
    if threshold_file:
        decision = decision._replace(threshold=thresholds.read_threshold(threshold_file))
        for name, given in (("weights", weights_file), ("calibration", calibration_file)):
            sibling = Path(threshold_file).parent / f"{name}.json"
            if not given and sibling.exists():
                warn(
                    f"{sibling} lies beside --threshold_file: t* was chosen with it, so give it as "
                    f"--{name}_file"
                )
    return decision


def write_decision(decision: Decision, folder: Path) -> None:
    """threshold.txt, and weights.json and calibration.json if they are used;
    those of an earlier threshold there go.
    """
    thresholds.write_threshold(decision.threshold, folder / "threshold.txt")
    for name, part in (("weights", decision.weights), ("calibration", decision.calibration)):
        if part:
            write_json(folder / f"{name}.json", part)
        else:
            (folder / f"{name}.json").unlink(missing_ok=True)
