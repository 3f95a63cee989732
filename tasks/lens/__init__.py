"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""

from tasks.lens.asked import Asked, answer
from tasks.lens.config import Config, Inputs
from tasks.lens.door import LensFinder
from tasks.lens.network import build_network, rebuild
from tasks.lens.task import build
from tasks.lens.tiny import tiny

__all__ = ["Asked", "Config", "Inputs", "LensFinder", "answer", "build", "build_network", "rebuild", "tiny"]
