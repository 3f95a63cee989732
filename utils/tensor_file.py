"""The files of torch.save, written durably and with a third of its Python.

While a thread that writes runs Python, the run cannot; so what matters is the Python, not the bytes.
torch.save spends it on asking of each object of the tree, in Python, whether it is a storage, and on two
objects that it makes for each tensor (12 ms for 700 tensors, here 4 ms). `torch.load` reads both alike.
"""

import errno
import io
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

TYPES = {
    dtype: getattr(torch, name)
    for dtype, name in torch.storage._dtype_to_storage_type_map().items()
    if hasattr(torch, name)
}
END, END_BYTES = b"PK\x05\x06", 22  # the last record of a zip file: how it begins, and its length


def write_tensors(path: Path, tree: Any) -> None:
    """Write `tree` so that it survives a crash. Raises OSError, or torch's RuntimeError,
    when the disk is full.
    """
    pickler = Pickler(content := io.BytesIO(), 2)
    try:
        pickler.dump(tree)
    except Unusual:
        torch.save(tree, path)
    else:
        # computes and writes without the interpreter's lock
        with torch.serialization._open_zipfile_writer(str(path)) as file:
            for name, text in {
                "data.pkl": content.getvalue(),
                ".format_version": "1",
                "byteorder": sys.byteorder,
                ".storage_alignment": str(torch.serialization._get_storage_alignment()),
            }.items():
                file.write_record(name, text, len(text))
            for number, storage in enumerate(pickler.storages.values()):
                file.write_record(f"data/{number}", storage, storage.nbytes())
    with open(path, "rb") as file:
        file.seek(-END_BYTES, os.SEEK_END)
        if not file.read().startswith(END):  # torch does not ask whether the last bytes that it wrote arrived
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


class Unusual(Exception):
    """A tensor that is not a dense one of a common type on the CPU."""


class Place(NamedTuple):
    """Stands in the pickle for the storage of a tensor."""

    words: tuple


class Pickler(pickle.Pickler):
    """Pickles a tree as torch.save does; `storages` belong beside the pickle, in their order.
    Raises Unusual.
    """

    def __init__(self, file: io.BytesIO, protocol: int):
        super().__init__(file, protocol)
        self.storages = {}
        self.places = {}
        self.no_hooks = OrderedDict()

    def persistent_id(self, node: Any) -> tuple | None:
        return node.words if type(node) is Place else None

    def reducer_override(self, node: Any) -> Any:
        if not isinstance(node, Tensor):
            return NotImplemented
        if (
            type(node) is not Tensor
            or node.layout is not torch.strided
            or node.dtype not in TYPES
            or not node.is_cpu
            or node.is_quantized
            or node.is_conj()
            or node.is_neg()
            or node.requires_grad
            or node.__dict__
        ):
            raise Unusual
        storage = node.untyped_storage()
        kind = TYPES[node.dtype]
        if storage._cdata not in self.places:
            words = "storage", kind, str(len(self.storages)), "cpu", storage.nbytes() // node.itemsize
            self.places[storage._cdata], self.storages[storage._cdata] = Place(words), storage
        place = self.places[storage._cdata]
        if place.words[1] is not kind:
            raise Unusual
        return torch._utils._rebuild_tensor_v2, (
            place,
            node.storage_offset(),
            tuple(node.shape),
            node.stride(),
            False,
            self.no_hooks,
        )
