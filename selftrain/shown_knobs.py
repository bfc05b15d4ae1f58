"""Which knobs a run shows as MLflow params: those that say what was done, and not all there are.

Shown are the few by which runs are told apart, and whatever is not as it always is. All others are
at their defaults; every knob stands in the run's `config.json`.
"""

from collections.abc import Mapping

from selftrain.config import DataConfig, EvaluateConfig, PseudoLabelConfig, TrainConfig
from selftrain.knobs import Scalar, flatten

_INFERENCE = ("inference.scales", "inference.flip", "inference.window")
_ALWAYS: Mapping[type, tuple[str, ...]] = {
    DataConfig: ("dataset", "labelled_fraction", "pool", "scale", "train_on"),
    TrainConfig: (
        "epochs",
        "seed",
        "network.name",
        "network.backbone_weights",
        "data.repeat",
        "data.pseudo_ratio",
        "sampling.centroid_fraction",
        "crop.size",
        "crop.schedule",
        "loss.name",
        "optim.name",
        "optim.lr",
        "optim.weight_decay",
        "optim.batch_size",
    ),
    PseudoLabelConfig: ("teacher", "agreement", "confidence", *_INFERENCE),
    EvaluateConfig: ("model", *_INFERENCE),
}
_OF_STUDENTS = ("select.rule", "select.threshold")


def shown_knobs(section: str, config: object, usual: object) -> dict[str, Scalar]:
    """Return {dotted path: value} of the knobs of a section that its run shows.

    Args:
        section: Where in the whole config it stands, e.g. "student".
        config: The section.
        usual: The benchmark's own: what differs from it is shown, though it be a default.
    """
    always = _ALWAYS[type(config)]
    if isinstance(config, TrainConfig):
        always += _OF_STUDENTS if config.data.pseudo_ratio > 0 else ()
        always += ("network.backbone",) if config.network.name != "fast_scnn" else ()
    defaults, its = flatten(type(config)()), flatten(usual)
    return {
        f"{section}.{knob}": value
        for knob, value in flatten(config).items()
        if knob in always or value != defaults[knob] or value != its[knob]
    }
