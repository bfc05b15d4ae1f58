"""Finished runs of stages that nothing was computed for: what they say is all there is to them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from selftrain import tracking
from selftrain.data.sample import ClassTable

CLASSES = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))


def key_of(name: str) -> str:
    """Return a key like a stage's."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def finished_run(
    role: str,
    *,
    stage: str = "train",
    key: str = "",
    upstream: Mapping[str, str] | None = None,
    data: Mapping[str, tuple[str, int]] | None = None,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, object] | None = None,
    network: Path | None = None,
) -> str:
    """Begin and end a stage's run, and return its id.

    Args:
        role: What it has made.
        stage: The kind of work.
        key: Of the product; "": made of the role.
        upstream: What it was made from -> run id.
        data: What it has read -> digest, number of images.
        metrics: What it has measured.
        params: What it logs of its config.
        network: Folder of a network to log as its model.
    """
    with tracking.stage_run(stage, role, key or key_of(role)) as run:
        run.set_tags({tracking.UPSTREAM + name: it for name, it in (upstream or {}).items()})
        for name, (digest, images) in (data or {}).items():
            samples: Sequence[str] = [str(number) for number in range(images)]
            run.log_dataset(samples, name=name, digest=digest, context="any")
        run.log_metrics(metrics or {})
        run.log_params(params or {})
        if network is not None:
            run.log_model(network)
    return run.run_id
