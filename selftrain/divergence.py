"""Has a loss or a gradient stopped being a number? Found without making the device wait."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selftrain import distributed
from selftrain.data.plan import Crop
from selftrain.data.sample import Sample

_MOST_NAMED = 10


@dataclass(frozen=True)
class Sight:
    """What was seen of an epoch up to some step."""

    loss: float
    """Mean over the steps."""
    bad_step: int | None
    """The first step, counted from 0, whose loss or gradient was infinite or NaN on any rank."""
    bad_loss: float = 0.0
    """That step's loss; a number where only the gradient was none."""


class Watch:
    """Follows the losses and gradients of an epoch on the device.

    To read a number from a GPU waits until it has computed all that was launched. So a step only
    leaves a mark on the device, and a mark is fetched long after it was made.
    """

    def __init__(self, device: torch.device) -> None:
        self._total = torch.zeros((), device=device)
        # First bad step or infinity, its loss. float64 counts steps exactly.
        self._first = torch.tensor([math.inf, 0.0], dtype=torch.float64, device=device)
        self._steps = 0
        self._under_way: tuple[Fetch, int] | None = None

    def note(self, loss: Tensor, norm: Tensor) -> None:
        """Take in a step: its loss and the norm of its gradient, scalars on the device."""
        self._total += loss
        is_first = ~(loss.isfinite() & norm.isfinite()) & self._first[0].isinf()
        # `full`: a tensor made from a Python number would be copied, and the copy waited for.
        step = torch.full_like(self._first[0], self._steps)
        here = torch.stack([step, loss.to(step.dtype)])
        self._first = torch.where(is_first, here, self._first)
        self._steps += 1

    def glance(self) -> Sight | None:
        """Return what was there to see at the glance before, and start to fetch what is now.

        None at the first glance. On the CPU nothing is under way: it is what is there now. All
        ranks must call this at the same steps.
        """
        before, self._under_way = self._under_way, self._fetch()
        if not self._first.is_cuda:
            return _sight(*self._under_way)
        return _sight(*before) if before is not None else None

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on from here in another process."""
        return {"total": self._total, "first": self._first, "steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what another watch has seen."""
        self._total.copy_(state["total"])
        self._first.copy_(state["first"])
        self._steps = int(state["steps"])

    def look(self) -> Sight:
        """Wait for the device and return all; all ranks must call this together."""
        return _sight(*self._fetch())

    def _fetch(self) -> "tuple[Fetch, int]":
        first = self._first.clone()
        # DDP leaves each rank the same gradient and the loss is summed: that they agree is no
        # news, but if they did not, the others would wait for the one that stops.
        distributed.least_over_ranks(first[0])
        return Fetch(torch.cat([first, self._total.to(first.dtype)[None]])), self._steps


def _sight(fetch: "Fetch", steps: int) -> Sight:
    bad_step, bad_loss, total = fetch.read()
    return Sight(total / max(steps, 1), None if math.isinf(bad_step) else int(bad_step), bad_loss)


class Fetch:
    """A few numbers on their way from the device, which need not wait for them."""

    def __init__(self, state: Tensor) -> None:
        self._state, self._arrived = state, None
        if state.is_cuda:
            self._state = torch.empty(state.shape, dtype=state.dtype, pin_memory=True)
            self._state.copy_(state, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has none
            self._arrived.record(torch.cuda.current_stream(state.device))

    def read(self) -> list[float]:
        """Return the numbers; wait until they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[float] = self._state.tolist()
        return found


def name_crops(crops: Sequence[Crop], samples: Sequence[Sample]) -> str:
    """Return the image, place and seed of the first ten crops, and how many more there are.

    A crop over which another one is pasted is named with it.
    """
    named = [_name_crop(crop, samples) for crop in crops[:_MOST_NAMED]]
    more = len(crops) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _name_crop(crop: Crop, samples: Sequence[Sample]) -> str:
    place = f"around {crop.point}" if crop.point else "anywhere"
    mixed = crop.mix and f", {crop.mix.kind} of {_name_crop(crop.mix.partner, samples)}"
    return f"{samples[crop.image].name} {place} with seed {crop.seed}{mixed or ''}"
