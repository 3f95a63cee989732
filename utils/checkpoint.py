"""Checkpoints: written whole or not at all, checksummed, read strictly and without running code.

A file holds {"version", "checksum", "record", and the parts of a run}; the checksum is the SHA-256 of all the
rest.
"""

import hashlib
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from utils import files, tensor_file
from utils.files import FULL, is_trouble
from utils.messages import shortened
from utils.mistake import Mistake

VERSION = 1
# seconds that a writing thread may keep the interpreter's lock from the run; Python's 0.005 cost 15 ms a save
HAND_BACK = 0.0005


PRECISIONS = ("fp32", "bf16", "fp16")
MOST_PICKLE = 2**26  # bytes of the tree beside its tensors


class Damaged(Mistake):
    """A file that is no whole checkpoint, or whose content is not what was written."""


def digest(tree: Any) -> str:
    """SHA-256 of a tree of dicts, lists, tensors, numbers and text: names, types, shapes and every bit."""
    sha = hashlib.sha256()

    def visit(node: Any) -> None:
        if isinstance(node, Tensor):
            sha.update(f"tensor {node.dtype} {list(node.shape)}".encode())
            sha.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(node, dict):
            sha.update(f"dict {len(node)}".encode())
            for key, value in node.items():
                sha.update(f"key {key!r}".encode())
                visit(value)
        elif isinstance(node, (list, tuple)):
            sha.update(f"list {len(node)}".encode())
            for value in node:
                visit(value)
        else:
            sha.update(f"{type(node).__name__} {node!r}".encode())

    visit(tree)
    return sha.hexdigest()


def save(path: Path, tree: dict, previous: Path | None = None) -> None:
    """Write `tree` to `path`, durably; the file that was there becomes `previous`, if given.

    At every moment `path` or `previous` is a whole file. Raises Mistake when the disk is full;
    what was there stays.
    """
    tree = on_host(dict(tree))
    temporary = files.temporary_for(path)
    try:
        tensor_file.write_tensors(temporary, dict(version=VERSION, checksum=digest(tree), **tree))
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
        if getattr(error, "errno", None) in FULL or isinstance(error, RuntimeError):
            raise Mistake(
                f"{path}: could not be written ({first_line(error)}); the checkpoint before it is kept: free "
                "some space and run the same command again"
            ) from error
        raise
    if previous is not None and path.exists():
        os.replace(path, previous)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def on_host(node: Any) -> Any:
    """The same tree, its tensors detached and on the CPU."""
    if isinstance(node, Tensor):
        return node.detach().cpu()
    if isinstance(node, dict):
        return {key: on_host(value) for key, value in node.items()}
    return type(node)(map(on_host, node)) if type(node) in (list, tuple) else node


class Writer:
    """Saves from a copy in a thread of its own, while the run goes on;
    whatever ends its `with` block waits for what is being written.

    Files are written one after another, in the order of the calls. One save of a path is in flight at most:
    the next of the same path waits for it rather than replace it, so that every save that was asked for is
    made and memory holds one copy of each file. After an error nothing more is written, and the next `save`,
    `check` or `wait`, or the end of the block, raises it.
    """

    def __init__(self):
        # the interpreter, too, waits for it before it exits
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        # memory of earlier copies, by kind of tensor
        self.spare: dict[tuple, list[Tensor]] = defaultdict(list)
        self.begun: dict[Path, Future] = {}
        self.failed = False

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Have the thread touch memory for copies of these: the first touch takes longer than all later
        copies (80 times, measured).
        """
        kinds = [kind_of(tensor) for tensor in tensors]
        self.thread.submit(lambda: [self.spare[kind].append(room_for(kind).zero_()) for kind in kinds])

    def save(self, path: Path, tree: dict, previous: Path | None = None) -> None:
        """`save` of this module, of `tree` as it is now."""
        self.check()
        if path in self.begun:
            self.begun[path].result()
        leaves, shape = tree_flatten(dict(tree))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        theirs = [leaves[place].detach() for place in places]
        mine = [
            self.spare[kind].pop() if self.spare[kind] else room_for(kind) for kind in map(kind_of, theirs)
        ]
        # on the device, in its turn: the host does not wait for it
        torch._foreach_copy_(mine, theirs) if mine else None
        for place, tensor in zip(places, mine):
            leaves[place] = tensor
        copied = [
            (device, torch.cuda.current_stream(device).record_event())
            for device in {t.device for t in mine if t.is_cuda}
        ]
        self.begun[path] = self.thread.submit(
            self.write, path, tree_unflatten(leaves, shape), previous, mine, copied
        )

    def write(
        self, path: Path, tree: dict, previous: Path | None, copies: list[Tensor], copied: list[tuple]
    ) -> None:
        if self.failed:
            return
        patience = sys.getswitchinterval()
        sys.setswitchinterval(min(patience, HAND_BACK))
        try:
            for device, event in copied:  # to the host beside the run's stream, not in it
                with torch.cuda.stream(torch.cuda.Stream(device)):
                    event.wait()
                    tree = tree_map(
                        lambda leaf, device=device: (
                            leaf.cpu() if isinstance(leaf, Tensor) and leaf.device == device else leaf
                        ),
                        tree,
                    )
            save(path, tree, previous)
        except BaseException:
            self.failed = True
            raise
        finally:
            sys.setswitchinterval(patience)
        for tensor in copies:
            self.spare[kind_of(tensor)].append(tensor)

    def check(self) -> None:
        """Raise the error of a save that has failed; waits for nothing."""
        for future in self.begun.values():
            if future.done():
                future.result()

    def wait(self) -> None:
        """Until all that was begun is on the disk."""
        for future in self.begun.values():
            future.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        self.thread.shutdown(wait=True)
        if error is None:
            self.wait()
        for future in self.begun.values() if error else ():
            if future.exception() not in (None, error):
                error.add_note(f"besides, {future.exception()}")


def kind_of(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def room_for(kind: tuple) -> Tensor:
    shape, stride, dtype, device = kind
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def load(path: Path) -> dict:
    """The tree of `save`, on the CPU.

    Raises Damaged where what was read is no whole checkpoint, Mistake for one of another kind; OSError and
    MemoryError where the machine does not give it, which says nothing of the file.
    """
    with open(path, "rb") as file:
        check_members(file, path)
        try:
            tree = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged zip raises almost anything; whatever it is, it is of no use
            if is_trouble(error):
                raise
            raise Damaged(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error
    if not isinstance(tree, dict) or "checksum" not in tree:
        raise Mistake(f"{path}: is no Starloop checkpoint; give best.pt or last.pt of a run directory")
    if tree.pop("version", None) != VERSION:
        raise Mistake(f"{path}: was written in another format; this code reads version {VERSION}")
    check_tensors(tree, path)
    if tree.pop("checksum") != digest(tree):
        raise Damaged(f"{path}: its content does not match its checksum")
    return tree


def check_members(file: BinaryIO, path: Path) -> None:
    """Before anything of the size that a file declares is allocated: all in it is stored as it is.

    torch writes no compressed member; one of 3 MB could unpack to 3 GB.
    """
    try:
        members = zipfile.ZipFile(file).infolist()
    except Exception as error:  # as above
        if is_trouble(error):
            raise
        raise Damaged(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error
    size = file.seek(0, os.SEEK_END)
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        small = member.file_size <= (MOST_PICKLE if member.filename.endswith(".pkl") else size)
        if not (stored and small):
            raise Damaged(
                f"{path}: its part {shortened(member.filename)} says that it unpacks to "
                f"{member.file_size:,} bytes, which no checkpoint does"
            )
    file.seek(0)


def check_tensors(tree: Any, path: Path) -> None:
    """No tensor is larger than the bytes that it lies in: one of stride 0 is 6 GB from a small file."""
    leaves, _ = tree_flatten(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            continue
        if leaf.layout is not torch.strided or leaf.is_quantized or leaf.device.type != "cpu":
            raise Damaged(f"{path}: holds a tensor that is not a plain one, which no checkpoint does")
        if leaf.numel() * leaf.element_size() > leaf.untyped_storage().nbytes():
            raise Damaged(
                f"{path}: holds a tensor {list(leaf.shape)} in {leaf.untyped_storage().nbytes():,} bytes, "
                "which no checkpoint does"
            )


def first_line(error: Exception) -> str:
    return shortened((str(error) or type(error).__name__).splitlines()[0])


def load_newest(folder: Path, warn) -> dict | None:
    """last.pt, or previous.pt where that is missing or damaged; None where neither was ever written.

    Raises Mistake when files are there but none is whole.
    """
    damage = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        try:
            tree = load(path)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damage.append(str(error))
            continue
        for text in damage:
            warn(f"{text}; going on from {path.name}")
        return tree
    if damage:
        raise Damaged(f"{'; '.join(damage)}: begin anew with --restart")
    return None


def check_layout(saved: dict[str, Any], path: Path | str) -> None:
    """Raises Mistake where a checkpoint lacks what its readers count on, or holds something else there."""
    record = saved.get("record")
    options, data = (record.get(name) if isinstance(record, dict) else None for name in ("options", "data"))
    weights = saved.get("model", saved["state"].get("ema") if isinstance(saved.get("state"), dict) else None)
    wanted = {
        "record, with options and data": isinstance(options, dict) and isinstance(data, dict),
        "task, of text": isinstance(options, dict) and isinstance(options.get("task"), str),
        "precision, fp32, bf16 or fp16": isinstance(options, dict) and options.get("precision") in PRECISIONS,
        "weights by name": isinstance(weights, dict)
        and all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()),
    }
    if "state" in saved and wanted["weights by name"]:
        progress = saved["state"].get("progress")
        kinds = dict(step=int, updates=int, history=list, ranks=list)
        wanted["progress of its run"] = isinstance(progress, dict) and all(
            isinstance(progress.get(name), kind) for name, kind in kinds.items()
        )
    if missing := [name for name, there in wanted.items() if not there]:
        raise Mistake(
            f"{path}: is a checkpoint without {' and without '.join(missing)}; it was written by another "
            "version of this code or by another program"
        )


def bands_of(record: dict[str, Any]) -> list[str]:
    """The bands that a network was trained on."""
    bands = record["data"].get("bands")
    if not isinstance(bands, list) or not all(isinstance(band, str) for band in bands):
        raise Mistake(
            f"the checkpoint's record names bands {shortened(repr(bands))}, expected a list of names; it was "
            "written by another version of this code or by another program"
        )
    return bands


def weights_of(saved: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of best.pt, or those of last.pt."""
    return saved["model"] if "model" in saved else saved["state"]["ema"]


def collect(parts: dict[str, Any]) -> dict[str, Any]:
    """The state of every part that has memory."""
    states = {name: part.state_dict() for name, part in parts.items()}
    return {name: state for name, state in states.items() if state}


def restore(parts: dict[str, Any], states: dict[str, Any], path: str) -> None:
    """Hand each part its state. Raises Mistake when one is missing, unclaimed, or does not fit."""
    wanted = collect(parts).keys()
    there = {name for name, state in states.items() if state}
    if wanted != there:
        raise Mistake(
            f"{path}: lacks {sorted(wanted - there)} and holds {sorted(there - wanted)}, which nothing here "
            "claims; begin anew with --restart"
        )
    for name in wanted:
        load_part(parts[name], states[name], f"{path}: its {name}")


def begin(parts: dict[str, Any], saved: dict[str, Any], path: str) -> None:
    """Hand the weights of another run to `model`, `loss` and their averages; of its last.pt the moments too.

    Raises Mistake where they do not fit.
    """
    if "model" in saved:
        states = dict(model=saved["model"], ema=saved["model"])
        if "loss" in saved:
            states |= dict(loss=saved["loss"], ema_loss=saved["loss"])
    else:
        states = {n: s for n, s in saved["state"].items() if n not in ("progress", "gradient", "scaler")}
    for name, state in states.items():
        if state:
            load_part(parts[name], state, f"{path}: its {name}")


def load_part(part: Any, state: dict[str, Any], what: str) -> None:
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise Mistake(f"{what} does not fit ({' '.join(str(error).split())[:300]})") from error
