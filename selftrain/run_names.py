"""What runs are called in MLflow: what tells them apart, in a few words.

Names need not be unique: a run is found by its key, never by its name.
"""

from collections.abc import Sequence
from fractions import Fraction

from selftrain.config import NetworkConfig, SelectConfig, TrainConfig


def name_training(role: str, config: TrainConfig, usual: TrainConfig) -> str:
    """Return the name of a training, as in "student 1:3 CS coarse2fine_plus s0".

    Args:
        role: What the network is to the pipeline.
        config: What is trained.
        usual: The benchmark's own; a network that it has is not named.
    """
    data, crop = config.data, config.crop
    words = [role]
    if data.pseudo_ratio > 0:
        words.append(f"1:{data.pseudo_ratio:g}")
    elif data.repeat != 1:
        words.append(f"x{data.repeat:g}")  # Table 2's "real x4"
    words.append(_sampling(config))
    if crop.schedule != "constant":
        words.append(crop.schedule)
    if data.pseudo_ratio > 0:
        words += _selection(config.select)
    if _architecture(config.network) != _architecture(usual.network):
        words.append(_architecture(config.network))
    return " ".join([*words, f"s{config.seed}"])


def name_labels(title: str, teachers: Sequence[str]) -> str:
    """Return the name of a set of pseudo labels.

    Args:
        title: What the set is called.
        teachers: The networks that made it, in a word or two each.
    """
    return f"{title} of {teachers[0] if len(teachers) == 1 else f'{len(teachers)} teachers'}"


def fraction(share: float) -> str:
    """Return a share as it is spoken of: 1/8, not 0.125."""
    nearest = Fraction(share).limit_denominator(64)
    return str(nearest) if abs(nearest - share) < 1e-9 else f"{share:g}"


def _sampling(config: TrainConfig) -> str:
    if config.sampling.centroid_fraction == 0:
        return "without CS"
    scope = config.sampling.scope
    return "CS" if scope == "both" or config.data.pseudo_ratio == 0 else f"CS of {scope}"


def _selection(select: SelectConfig) -> list[str]:
    words = []
    if select.rule != "global":
        words.append(f"{select.rule} {select.share:g}")
    if select.threshold > 0:
        words.append(f"from {select.threshold:g}")
    if select.images != "all":
        words.append(f"{select.images} {select.images_share:g}")
    return words


def name_network(network: str, backbone: str) -> str:
    """Return what a network is called, by its architecture and backbone."""
    return network if network == "fast_scnn" else f"{network} {backbone}"


def _architecture(network: NetworkConfig) -> str:
    return name_network(network.name, network.backbone)
