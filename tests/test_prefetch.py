"""Batches arrive as they were sent; what is particular to CUDA is tested in gpu/."""

from collections.abc import Iterator

import torch
from torch import Tensor

from selftrain.prefetch import prefetch


def test_batches_arrive_whole_and_in_order() -> None:
    batches = [(torch.full((2, 3), number), torch.tensor(number)) for number in range(5)]
    arrived = list(prefetch(batches, torch.device("cpu")))
    assert [[tensor.tolist() for tensor in batch] for batch in arrived] == [
        [tensor.tolist() for tensor in batch] for batch in batches
    ]


def test_a_batch_is_asked_for_when_it_is_wanted() -> None:
    asked = []

    def batches() -> Iterator[tuple[Tensor, ...]]:
        for number in range(3):
            asked.append(number)
            yield (torch.tensor(number),)

    arriving = prefetch(batches(), torch.device("cpu"))
    next(arriving)
    assert asked == [0]
