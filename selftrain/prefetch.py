"""The next batch travels to the device while the device computes with this one."""

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_AHEAD = 2
"""Steps that the host may be ahead of the device: enough that the device never waits for it, and
few enough that the batches under way take no memory to speak of."""


def prefetch(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches with their tensors on the device.

    On CUDA each is copied on a stream of its own. The host asks for the next batch as soon as it
    has launched a step, so that the copy runs beside that step's kernels.

    Args:
        batches: In page-locked memory for CUDA: a copy from other memory waits for the device.
        device: Where to. On the CPU the batches are yielded as they are.
    """
    if device.type != "cuda":
        for batch in batches:
            yield tuple(tensor.to(device) for tensor in batch)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    launched: deque[torch.cuda.Event] = deque()
    for batch in batches:
        if len(launched) == _AHEAD:
            launched.popleft().synchronize()
        with torch.cuda.stream(copying):
            copies = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for copy in copies:
            # The memory belongs to the copying stream: without this it would be given to the
            # next batch as soon as the host drops it, while kernels still read it.
            copy.record_stream(computing)
        yield copies
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        launched.append(event)
