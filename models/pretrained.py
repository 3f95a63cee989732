"""Encoder weights from a local file into a network:
timm's, Zoobot's, or those of the authors of ConvNeXt V2.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

# entries that hold the weights
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "module")
# Names in the authors' files -> timm's (github.com/facebookresearch/ConvNeXt-V2, models/convnextv2.py)
AUTHORS = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(?=weight|bias)", "head.fc."),
)


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did; as a string, one line."""

    path: str
    loaded: tuple[str, ...]  # names in the network that now hold the file's values
    kept: tuple[str, ...]  # names in the network that keep their initial values
    dropped: tuple[str, ...]  # names in the file that were not used
    folded: tuple[int, int] | None  # input channels in the file and in the network, where they differ
    moved: "Moved | None" = None  # what became of the weights of each band, where bands differ

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors from {self.path}"]
        parts += [str(self.moved)] if self.moved else []
        parts += (
            [f"first layer folded from {self.folded[0]} to {self.folded[1]} channels"] if self.folded else []
        )
        parts += [f"freshly initialised: {first_names(self.kept)}"] if self.kept else []
        parts += [f"not used: {first_names(self.dropped)}"] if self.dropped else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Moved:
    """Weights that follow the names of bands, from a network of this project to one of other bands."""

    before: tuple[str, ...]  # bands of the file, by channel
    after: tuple[str, ...]  # bands of the network

    def tensor(self, tensor: Tensor, wanted: Tensor, old: list[list[int]], new: list[list[int]]) -> Tensor:
        """Weights [O, I, ...] for the inputs of `wanted`. old, new: of each band its places among the inputs
        of the file and of the network; a band that the file lacks gets the mean over its bands.
        """
        result = torch.empty_like(wanted, dtype=tensor.dtype)
        ours, theirs = (
            [i for i in range(each.shape[1]) if i not in set(chain.from_iterable(places))]
            for each, places in ((wanted, new), (tensor, old))
        )
        result[:, ours] = tensor[:, theirs]
        mean = torch.stack([tensor[:, places] for places in old]).float().mean(0).to(tensor.dtype)
        for band, places in zip(self.after, new):
            known = band in self.before
            result[:, places] = tensor[:, old[self.before.index(band)]] if known else mean
        return result

    def __str__(self) -> str:
        followed = [band for band in self.after if band in self.before]
        added = [band for band in self.after if band not in self.before]
        gone = [band for band in self.before if band not in self.after]
        parts = [f"weights follow the bands {' '.join(followed)}"] if followed else []
        parts += (
            [f"new bands {' '.join(added)} begin with the mean of {' '.join(self.before)}"] if added else []
        )
        parts += [f"bands {' '.join(gone)} are dropped"] if gone else []
        return "; ".join(parts)


def load_pretrained(
    network: nn.Module, path: str | Path, bands: Sequence[str] = (), usual: Callable[[str], str] = str
) -> Loaded:
    """Give `network` the encoder weights in the file: .safetensors, or what torch.save writes (tensors only).

    Prefixes of wrappers are taken off; the first layer is folded to the network's channels; a classifier of
    another size stays as it was initialised, and so do the layers that the network's `fresh` names: what they
    do depends on columns of metadata, of which a file of weights says nothing. For a ConvNeXtV2, a ResNet or
    FiLMConditioned (timm's ResNets with GroupNorm), one of timm's, and for what this project trained.

    bands: of the network's channels, where each is one. Where the file is a checkpoint of this project that
    names other ones, or in another order, weights follow the names and nothing is folded (`Moved`).
    usual: the name by which two names of bands are found to be the same.

    Raises ValueError for a file that cannot be read, and, with nothing loaded, for an encoder that does not
    match; so for BatchNorm weights of a network with GroupNorm, whose shapes are the same:
    their scales go with the statistics of many images.
    """
    target = network.state_dict()
    fresh = tuple(f"{name}." for name in getattr(network, "fresh", ()))
    own = [name for name in target if not name.startswith(fresh)]
    first = next(name for name, _ in network.named_parameters() if not name.startswith(fresh))
    classifier = own[-1].rpartition(".")[0] + "."
    tops = {name.partition(".")[0] for name in own}
    content = read_content(path)
    tensors, dropped = encoder_tensors(tensors_of(content, path), first, tops)
    before, after = trained_bands(content), tuple(bands)
    if all(len(set(map(usual, names))) == len(names) for names in (before, after)):
        before, after = tuple(map(usual, before)), tuple(map(usual, after))
    moved = Moved(before, after) if before and after and before != after else None
    if moved:
        move_bands(network, tensors, moved, path)
    # timm's ResNets name their classifier so
    for theirs, ours in (("fc.weight", f"{classifier}weight"), ("fc.bias", f"{classifier}bias")):
        if (
            theirs not in target
            and theirs in tensors
            and ours in target
            and tensors[theirs].shape == target[ours].shape
        ):
            tensors[ours] = tensors.pop(theirs)
    state = {}
    wrong = []
    folded = None
    for name, tensor in tensors.items():
        if name.startswith(fresh):
            dropped.append(name)
            continue
        layer, _, what = name.rpartition(".")
        if what == "running_mean" and f"{layer}.weight" in target and name not in target:
            raise ValueError(
                f"{path} does not fit this network: it has BatchNorm ({name}), the network GroupNorm; take "
                "weights that were trained with GroupNorm, such as timm's resnet50_gn"
            )
        if name not in target:
            # a layer that the network lacks is another encoder, but for what sits on top of it
            (
                wrong
                if name.partition(".")[0] in tops - {"head"} and not name.startswith(classifier)
                else dropped
            ).append(name)
            continue
        wanted = target[name].shape
        if name == first and tensor.ndim == 4 and tensor.shape[1] != wanted[1]:
            folded = (tensor.shape[1], wanted[1])
            tensor = fold_channels(tensor, wanted[1])
        if tensor.shape != wanted and squeezed(tensor.shape) == squeezed(wanted):
            tensor = tensor.reshape(wanted)  # [O, I] and [O, I, 1, 1] are the same layer
        if tensor.shape == wanted:
            state[name] = tensor
        elif name.startswith(classifier):
            dropped.append(name)
        else:
            wrong.append(f"{name} {list(tensor.shape)} (the network's is {list(wanted)})")
    kept = [name for name in target if name not in state]
    wrong += [f"{name} (absent)" for name in kept if not name.startswith((classifier, "head.", *fresh))]
    if wrong:
        raise ValueError(f"{path} does not fit this network: {first_names(wrong)}")
    if bad := [name for name, tensor in state.items() if not tensor.float().isfinite().all()]:
        raise ValueError(f"{path} holds values that are not finite: {first_names(bad)}")
    network.load_state_dict(target | state)
    return Loaded(str(path), tuple(state), tuple(kept), tuple(dropped), folded, moved)


def band_places(network: nn.Module, channels: int) -> dict[str, list[list[int]]]:
    """Name of a weight [O, I, ...] -> for each of `channels` bands its places among the I inputs.

    Networks whose first layer is not all that depends on the number of bands say so themselves by a method
    of this name. Raises: ValueError for one of timm's that does not name its first layer.
    """
    if hasattr(network, "band_places"):
        return network.band_places(channels)
    if hasattr(network, "default_cfg"):  # timm's
        named = network.default_cfg.get("first_conv")
        first = [f"{name}.weight" for name in ([named] if isinstance(named, str) else named or ())]
    else:
        fresh = tuple(f"{name}." for name in getattr(network, "fresh", ()))
        first = [next(name for name, _ in network.named_parameters() if not name.startswith(fresh))]
    if not first:
        raise ValueError(
            "this network does not say which of its weights belong to a band: give --bands in the order of "
            "the checkpoint"
        )
    return {name: [[band] for band in range(channels)] for name in first}


def move_bands(network: nn.Module, tensors: dict[str, Tensor], moved: Moved, path: str | Path) -> None:
    """Put the weights of each band where the network has the band of that name."""
    target = network.state_dict()
    ours = band_places(network, len(moved.after))
    theirs = band_places(network, len(moved.before))
    for name, new in ours.items():
        if name in tensors and name in target:
            others = target[name].shape[1] - sum(map(len, new))
            inputs = sum(map(len, theirs[name])) + others
            if tensors[name].shape[1] != inputs:
                raise ValueError(
                    f"{path} does not fit this network: {name} has {tensors[name].shape[1]} inputs, expected "
                    f"{inputs} for the bands {' '.join(moved.before)}"
                )
            tensors[name] = moved.tensor(tensors[name], target[name], theirs[name], new)


def trained_bands(content: dict) -> tuple[str, ...]:
    """The bands of the channels of a checkpoint of this project; none of another file, or of single bands."""
    record = content.get("record")
    options, data = (
        (record.get(name) for name in ("options", "data")) if isinstance(record, dict) else (None, None)
    )
    if not (isinstance(options, dict) and isinstance(data, dict)) or options.get("band_mode") != "stack":
        return ()
    bands = data.get("bands")
    named = isinstance(bands, list) and all(isinstance(band, str) for band in bands)
    return tuple(bands) if named else ()


def read_content(path: str | Path) -> dict:
    """What the file holds, tensors and whatever is beside them."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such file of weights: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ValueError(f"{path}: pip install safetensors to read it") from error
    except Exception as error:  # a bad file can raise anything here; whatever it is, the file is what to mend
        raise ValueError(
            f"{path} is not a file of tensors, or holds objects beside them, which may run code when read: "
            f"save its state_dict alone ({type(error).__name__})"
        ) from error
    return content if isinstance(content, dict) else {}


def tensors_of(content: dict, path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor, out of whatever entry of the file holds them."""
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
    if content is None or not isinstance(content, dict):
        raise ValueError(
            f"{path} holds no weights: expected a state_dict, or one under {', '.join(WRAPPERS)}"
        )
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def encoder_tensors(
    tensors: dict[str, Tensor], first: str, tops: set[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the encoder under the network's names, and the names of all others.

    `first` is the name of the network's first weight: what stands before it in the file is the wrappers'
    prefix (module., encoder., _orig_mod., model.encoder. ...). Inner weights can be called the same, as
    layer1.0.conv1.weight is in a ResNet, under the prefix and one of `tops`, the first words of the network's
    names.
    """
    anchor = re.compile(rf"(^|\.)({re.escape(first)}|downsample_layers\.0\.0\.weight)$")
    anchors: list[str] = []
    for name in sorted(filter(anchor.search, tensors), key=len):
        starts = [other[: anchor.search(other).start(2)] for other in anchors]
        if not any(
            name.startswith(start) and name.removeprefix(start).partition(".")[0] in tops for start in starts
        ):
            anchors.append(name)
    if len(anchors) != 1:
        raise ValueError(
            f"expected one encoder, whose first weight is {first!r}; the file has {len(anchors)} such names: "
            f"{first_names(anchors or list(tensors))}"
        )
    authors = anchors[0].endswith("downsample_layers.0.0.weight")
    prefix = anchors[0].removesuffix("downsample_layers.0.0.weight" if authors else first)
    inside = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    if authors:
        inside = {authors_name(name): tensor for name, tensor in inside.items()}
    return inside, [name for name in tensors if not name.startswith(prefix)]


def authors_name(name: str) -> str:
    for pattern, replacement in AUTHORS:
        name = re.sub(pattern, replacement, name)
    return name


def fold_channels(weight: Tensor, channels: int) -> Tensor:
    """First-layer weight [O, I, k, k] for `channels` inputs: summed for one,
    else repeated and scaled by I / channels.

    The response to an image that is the same in all channels stays what it was.
    Source: timm, `adapt_input_conv`.
    """
    before = weight.shape[1]
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, -(-channels // before), 1, 1)[:, :channels]
    return (repeated.float() * (before / channels)).to(weight.dtype)


def squeezed(shape: torch.Size) -> list[int]:
    return [length for length in shape if length != 1]


def first_names(names, count: int = 3) -> str:
    return ", ".join(list(names)[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
