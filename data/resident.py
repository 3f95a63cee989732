"""A data set that lies on the device whole: a step then reads nothing from the host but the numbers of its
examples.
"""

import numpy as np
import torch

from contract import Batch, Examples, lengths_agree, refuse_lengths
from utils.mistake import Mistake

AT_ONCE = 4096  # examples that are read and copied at once
ROOM = 0.5  # share of a GPU's free memory that examples may take; the rest is the network's


class Resident(Examples):
    """The examples of `data`, one tensor [E, ...] a field on `device`, gathered there."""

    uniform = True

    def __init__(self, data: Examples, device: torch.device):
        self.data = data
        self.fields = {}
        for start in range(0, len(data), AT_ONCE):
            stop = min(start + AT_ONCE, len(data))
            some = range(start, stop)
            batch = data.__getitems__(some)
            if not lengths_agree(batch, len(some)):
                refuse_lengths(batch, len(some), data.names(some))
            for name, tensor in batch.items():
                if name not in self.fields:
                    self.fields[name] = torch.empty(
                        len(data), *tensor.shape[1:], dtype=tensor.dtype, device=device
                    )
                self.fields[name][start:stop] = tensor

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices) -> Batch:
        index = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        place = next(iter(self.fields.values())).device
        index = index.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else index
        return {name: field.index_select(0, index) for name, field in self.fields.items()}

    def names(self, indices) -> list[str]:
        return self.data.names(indices)


def resident(data: Examples, wish: str, device: torch.device) -> Examples:
    """`data` on the device, or as it is, as `--resident` wishes.

    wish: "yes"; "no"; "auto": on a GPU, where half of its free memory holds them. Only examples that are all
        of one shape (`data.uniform`) can be.
    Raises: Mistake for "yes" and examples of many shapes.
    """
    if wish == "yes" and not data.uniform:
        raise Mistake(
            "--resident: got 'yes', but the examples of this task are of many shapes; give auto or no"
        )
    if wish == "no" or not data.uniform or not len(data):
        return data
    if wish == "auto":
        bytes_each = sum(tensor.nbytes for tensor in data.__getitems__([0]).values())
        if device.type != "cuda" or bytes_each * len(data) > ROOM * torch.cuda.mem_get_info(device)[0]:
            return data
    return Resident(data, device)
