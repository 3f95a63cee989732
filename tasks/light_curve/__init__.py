"""What shapes do light curves have?"""

from tasks.light_curve.asked import Asked, answer
from tasks.light_curve.config import Config, Inputs
from tasks.light_curve.door import CurveEmbedder
from tasks.light_curve.task import build, build_network, rebuild
from tasks.light_curve.tiny import tiny

__all__ = [
    "Asked",
    "Config",
    "CurveEmbedder",
    "Inputs",
    "answer",
    "build",
    "build_network",
    "rebuild",
    "tiny",
]
