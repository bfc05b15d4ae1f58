"""When a training is kept, and when it ends; `integration/stop_ranks.py` asks several processes."""

import signal

import pytest
import torch

from selftrain.resume import GO_ON, KEEP, Pace

CPU = torch.device("cpu")


def test_a_training_is_kept_once_when_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(now: float) -> None:
        monkeypatch.setattr("time.monotonic", lambda: now)

    at(1000.0)
    pace = Pace(2.0, CPU)
    decisions = []
    for now in (1001.0, 1119.0, 1120.0, 1121.0, 1239.0, 1240.0):
        at(now)
        decisions.append(pace.decide(None))
    assert decisions == [GO_ON, GO_ON, KEEP, GO_ON, GO_ON, KEEP]
    at(1300.0)
    pace.begin()  # kept for another reason
    at(1400.0)
    assert pace.decide(None) == GO_ON


def test_without_a_time_it_is_never_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(0.0, CPU)
    monkeypatch.setattr("time.monotonic", lambda: 1e12)
    assert pace.decide(None) == GO_ON


def test_a_signal_is_more_urgent_than_the_time() -> None:
    assert Pace(1e-9, CPU).decide(signal.SIGTERM) == -signal.SIGTERM
