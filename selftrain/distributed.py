"""One process or many: rank, world size and the few things that processes tell each other.

Under torchrun each process is a rank; otherwise there is one, and every function here is the
identity.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from selftrain.errors import InputError

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)
"""Ranks wait while the first one writes and logs a product, which may be large."""
_PATIENCE_WITH_OTHERS = timedelta(seconds=10)
"""A rank with a mistake waits so long for the first rank to come to the same one."""


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join torchrun's process group for the length of the block; do nothing without torchrun."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=_PATIENCE, device_id=device if on_gpu else None
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def told_once() -> Iterator[None]:
    """Let a mistake that several of torchrun's processes make be told by one of them.

    The first rank raises what it comes with. The others give it some seconds to come with the
    same sentence, and then leave by SystemExit, with exit code 1 and without a word: were they
    faster, torchrun would end the first rank before its run is closed. A sentence that the first
    rank does not come with is raised by one of those that do.
    """
    try:
        yield
    except InputError as error:
        if not _is_news(str(error)):
            raise SystemExit(1) from None
        raise


def _is_news(sentence: str) -> bool:
    """Tell whether it is for this process to tell a sentence, and note that it does."""
    if "RANK" not in os.environ:
        return True
    digest = hashlib.blake2b(sentence.encode(), digest_size=8).hexdigest()
    told = f"selftrain/told/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{digest}"
    try:
        # torchrun's own store: it is there before the process group and after it. The class is
        # public, and untyped.
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_PATIENCE_WITH_OTHERS,
        )
        patience = _PATIENCE_WITH_OTHERS.total_seconds() if os.environ["RANK"] != "0" else 0
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if store.check([told]):
                return False
            time.sleep(0.1)
        return bool(store.add(told, 1) == 1)
    except (KeyError, ValueError, RuntimeError):  # nobody keeps such a store: better told twice
        return True


def rank() -> int:
    """Return this process's number, 0 for the one that logs and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: T) -> T:
    """Return rank 0's value on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Return every rank's value, in the order of the ranks, on every rank."""
    found = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(found, value)
    return found


def share(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors on every rank with rank 0's."""
    for tensor in tensors if dist.is_initialized() else ():
        dist.broadcast(tensor, src=0)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks; the tensor itself is changed."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def shared_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks, through which gradients flow back to all.

    The gradient of the sum of all ranks' losses, that is; the tensor itself stays as it is.
    """
    if not dist.is_initialized():
        return tensor
    total: torch.Tensor = _SharedSum.apply(tensor)
    return total


class _SharedSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(tensor.clone())

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(gradient.clone())


def least_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the least value of each element over all ranks; the tensor itself is changed."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return tensor


def require_devices(name: str, processes: int) -> None:
    """Raise InputError unless so many processes on this machine can each have a device.

    Args:
        name: "auto", "cpu" or "cuda": see `choose_device`.
        processes: Of this machine.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return
    if processes > torch.cuda.device_count():
        raise InputError(
            f"machine.processes = {processes} on CUDA needs a GPU for each, but this machine has "
            f"{torch.cuda.device_count()}: lower machine.processes, or set machine.device to cpu."
        )


def choose_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda"; each local rank has a GPU of its own."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"machine.device = {name} asks for CUDA device {local_rank}, but this machine has "
            f"{torch.cuda.device_count()}: set machine.device to cpu or start fewer processes."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
