"""What MLflow's runs table offers under *Views*: columns, filters and orders for these runs.

MLflow keeps a view as a tag of the experiment. It has no public function that makes one; the form
is that of its UI, which a test looks at in a browser.
"""

import json
from collections.abc import Mapping, Sequence

_TAG = "mlflow.sharedViewState."
_STAGE, _BENCHMARK, _SEED = "tags.`selftrain.stage`", "params.`benchmark`", "params.`seed`"
_DEV, _TEST = "metrics.`dev/mIoU`", "metrics.`test/mIoU`"
_OF_MAIN = [f"metrics.`{who}/test/mIoU`" for who in ("teacher", "control", "student")]
_WIDTHS = {_STAGE: 120, _SEED: 70}
"""Pixels."""


def _view(columns: Sequence[str], order: str, where: str = "") -> dict[str, object]:
    return {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, 100) | dict.fromkeys(_OF_MAIN, 140) | _WIDTHS,
        # By anything but their time: MLflow would fold them into the command's run.
        "orderByKey": order,
        "orderByAsc": False,
        "searchFilter": where,
        "runsHiddenMode": "SHOWALL",
    }


VIEWS: Mapping[str, Mapping[str, object]] = {
    "results": _view([_STAGE, _BENCHMARK, _SEED, _DEV, _TEST, *_OF_MAIN], _TEST),
    "trainings": _view([_BENCHMARK, _SEED, _DEV], _DEV, "tags.selftrain.stage = 'train'"),
    "evaluations": _view([_BENCHMARK, _SEED, _TEST], _TEST, "tags.selftrain.stage = 'evaluate'"),
}
"""Name -> state of the table."""


def view_tags(now: int) -> dict[str, str]:
    """Return {tag of the experiment: value} of all views.

    Args:
        now: Milliseconds since 1970.
    """
    return {
        f"{_TAG}selftrain-{name}": json.dumps(
            {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
        )
        for name, state in VIEWS.items()
    }
