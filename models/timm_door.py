"""The one door through which timm comes in, and torchvision, which it needs.

torchvision's wheel on PyPI is linked to CUDA libraries. Beside a CPU-only torch its compiled part does not
load, and `import torchvision`, and with it `import timm`, dies of an operator that is not there.
"""

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from types import ModuleType

import torch

# What torchvision declares in its compiled part and refers to while it is imported.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its Library object


def import_torchvision() -> ModuleType:
    """torchvision, with its Python part at work even where its compiled part cannot load.

    Raises ValueError, one line that says what to install, where it is absent or broken in another way.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed, and timm needs it: pip install torchvision==0.28.0")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise ValueError(
                f"torchvision cannot be imported ({error}): install the one made for torch "
                f"{torch.__version__}"
            ) from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        library.define(operator)
    _declared.append(library)
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """timm. Raises ValueError, one line that says what to install, where it or torchvision is absent."""
    if importlib.util.find_spec("timm") is None:
        raise ValueError("timm is not installed: pip install timm==1.0.31")
    import_torchvision()
    return importlib.import_module("timm")


class TimmNetwork(torch.nn.Module):
    """A network of timm with our names for its two halves: features [B,
    feature_dim] and the classifier on top of them.
    """

    def __init__(self, body: torch.nn.Module):
        super().__init__()
        self.body = body
        self.feature_dim = getattr(body, "head_hidden_size", None) or body.num_features

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body.forward_head(self.body.forward_features(x), pre_logits=True)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self.body.get_classifier()(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def build_timm(
    timm_name: str,
    in_chans: int = 1,
    num_classes: int = 1,
    drop_path_rate: float = 0.0,
    img_size: int | None = None,
) -> TimmNetwork:
    """Any network of timm by its name, freshly initialised; `img_size` for those that are made for one size
    of image.

    Raises ValueError for a name that timm does not know, and for an option that this network does not take.
    """
    timm = import_timm()
    if timm_name not in timm.list_models():
        nearest = ", ".join(get_close_matches(timm_name, timm.list_models(), 3, 0))
        raise ValueError(f"timm {timm.__version__} has no network {timm_name!r} (nearest: {nearest})")
    options = dict(drop_path_rate=drop_path_rate or None, img_size=img_size)
    options = {name: value for name, value in options.items() if value is not None}
    try:
        return TimmNetwork(
            timm.create_model(
                timm_name, pretrained=False, in_chans=in_chans, num_classes=num_classes, **options
            )
        )
    except TypeError as error:
        raise ValueError(f"timm's {timm_name} does not take one of {', '.join(options)} ({error})") from error
