"""When a training that may be interrupted is kept, and when it ends: decided after each step.

All ranks take part in keeping a training and end it after the same step. So they decide together.
"""

import math
import time
from collections import deque

import torch

from selftrain import distributed
from selftrain.divergence import Fetch

GO_ON, KEEP = 1, 0
"""What to do after a step; a negative number: keep the training, and end by the signal of it."""
_LAG = 2
"""Steps after which a wish is read that had to come from a device: it is there without waiting,
as the host is no more steps ahead (`prefetch.py`)."""


class Pace:
    """Decides after each step, for all ranks alike; the most urgent wish counts."""

    def __init__(self, minutes: float, device: torch.device) -> None:
        """Begin to count the time.

        Args:
            minutes: After which a training is kept again; 0: never for the time.
            device: Over which the ranks talk.
        """
        self._seconds = 60 * minutes or math.inf
        self._device = device
        self._under_way: deque[Fetch] = deque()
        self.begin()

    def begin(self) -> None:
        """Count the time from now: the training has just been kept."""
        self._due = time.monotonic() + self._seconds

    def decide(self, signal: int | None) -> int:
        """Return GO_ON, KEEP, or minus the number of the signal to end by.

        All ranks must call this after the same steps.

        Args:
            signal: That this rank was sent.
        """
        wish = GO_ON
        if signal is not None:
            wish = -signal
        elif distributed.rank() == 0 and time.monotonic() >= self._due:
            wish = KEEP
            self.begin()
        if distributed.world_size() == 1:
            return wish
        wishes = torch.full((1,), wish, dtype=torch.int32, device=self._device)
        self._under_way.append(Fetch(distributed.least_over_ranks(wishes)))
        lag = _LAG if wishes.is_cuda else 0
        if len(self._under_way) <= lag:
            return GO_ON
        return int(self._under_way.popleft().read()[0])
