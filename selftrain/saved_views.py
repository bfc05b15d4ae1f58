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


_FRAMES = {
    "compareRunSections": [
        {
            "uuid": "selftrain-frames",
            "name": "frames",
            "display": True,
            "isReordered": False,
            "deleted": False,
            "isGenerated": False,
        }
    ],
    "compareRunCharts": [
        {
            "uuid": "selftrain-frames-of-all",
            "type": "IMAGE",
            "metricSectionId": "selftrain-frames",
            "displayName": "dev frames",
            "imageKeys": ["frames/1", "frames/2", "frames/3"],
            "step": 0,
            "showRunParams": False,
            "runsCountToCompare": 10,
            "deleted": False,
            "isGenerated": False,
        }
    ],
}
"""A chart with the frames that trainings draw (`examples.py`), of all runs beside each other."""

VIEWS: Mapping[str, Mapping[str, object]] = {
    "results": _view([_STAGE, _BENCHMARK, _SEED, _DEV, _TEST, *_OF_MAIN], _TEST),
    "trainings": _view([_BENCHMARK, _SEED, _DEV], _DEV, "tags.selftrain.stage = 'train'") | _FRAMES,
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
