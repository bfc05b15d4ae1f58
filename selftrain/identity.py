"""What decides a product: the part of a config that its key holds.

Left out are knobs at their defaults, so that a knob that is invented later, off by default, leaves
the keys of all that was made before as they are. A default that changes raises the stage's version
(a test holds them together).
"""

import dataclasses
import hashlib
from pathlib import Path

from selftrain.config import PseudoLabelConfig, TrainConfig
from selftrain.knobs import Scalar, flatten, override

FOR_PSEUDO_LABELS = ("select.", "strong.", "sampling.scope", "loss.confidence_gamma", "loss.soft")
"""Beginnings of the knobs of a training that say nothing where it has no pseudo labels."""


def changed_knobs(config: object) -> dict[str, Scalar]:
    """Return the knobs that are not at their defaults."""
    defaults = flatten(type(config)())
    return {knob: value for knob, value in flatten(config).items() if value != defaults[knob]}


def decides_training(config: TrainConfig) -> dict[str, Scalar]:
    """Return what decides a training; a weights file counts by its content, not by its path."""
    # A start counts by the key of what it names.
    neutral: dict[str, Scalar] = {"start": "none"}
    if config.data.pseudo_ratio == 0:
        defaults = flatten(TrainConfig())
        neutral |= {k: v for k, v in defaults.items() if k.startswith(FOR_PSEUDO_LABELS)}
    values = changed_knobs(override(config, neutral))
    if config.optim.ema > 0:
        # Before averages were warmed up, the same knob made another network.
        values["optim.ema"] = f"{config.optim.ema} warmed up"
    weights = Path(config.network.backbone_weights)
    if weights.is_file():
        digest = hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()
        values["network.backbone_weights"] = f"file {digest}"
    return values


def decides_labels(config: PseudoLabelConfig) -> dict[str, Scalar]:
    """Return what decides a set of pseudo labels, besides the teacher and the pool.

    Who labels which shard decides nothing, nor does measuring: students stay as they are.
    """
    plain = dataclasses.replace(
        config, teacher="none", measure=False, shard="all", allow_labelled=False
    )
    return changed_knobs(plain)
