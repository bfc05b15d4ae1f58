"""One process or many: rank, world size and the few things that processes tell each other.

Under torchrun each process is a rank; otherwise there is one, and every function here is the
identity.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from selftrain.errors import InputError

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)
"""Ranks wait while the first one writes and logs a product, which may be large."""


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


def share(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors on every rank with rank 0's."""
    for tensor in tensors if dist.is_initialized() else ():
        dist.broadcast(tensor, src=0)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks; the tensor itself is changed."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def least_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the least value of each element over all ranks; the tensor itself is changed."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return tensor


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
