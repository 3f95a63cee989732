"""Between host and device without either waiting for the other."""

from collections.abc import Iterator

import torch
from torch import Tensor

Item = tuple  # (a batch, and whatever belongs to it on the host)


class Arriving:
    """The numbers of a tensor on their way to the host; `read` waits no longer than until the device has
    computed them.
    """

    def __init__(self, numbers: Tensor):
        self.numbers = numbers.to("cpu", non_blocking=True)  # page-locked, where it comes from a GPU
        self.event = torch.cuda.current_stream(numbers.device).record_event() if numbers.is_cuda else None

    def read(self) -> list[float]:
        if self.event:
            self.event.synchronize()
        return self.numbers.tolist()


def copied_ahead(batches: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """The same batches, copied to a GPU in a stream of their own:
    a copy passes while the step before it computes.

    The host runs ahead of the device, so that it asks for a batch while earlier steps are still queued.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # what was put on the device before is there
    while True:
        with torch.cuda.stream(stream):
            item = next(batches, None)
        if item is None:
            return
        now = torch.cuda.current_stream(device)
        now.wait_stream(stream)
        for tensor in item[0].values():
            tensor.record_stream(now)  # its memory is not given away while a step reads it
        yield item
