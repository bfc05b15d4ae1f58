"""A tracking store of thousands of runs: some are recorded, and copied in the database."""

import sqlite3
import uuid
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from selftrain.config import Config
from selftrain.knobs import flatten

STUDY = "table2_pseudo_ratio"
CLASSES = [f"class {k}" for k in range(19)]
STEPS = 20
"""Values of each metric that is logged by the epoch."""
_TABLES = ("params", "tags", "metrics", "latest_metrics")


def record_trial(uri: str, arm: str) -> list[str]:
    """Record the runs of a seed of an arm as stages log them; return their ids.

    They are a training with all its knobs and its metrics by epoch, its evaluation, and the arm.

    Args:
        uri: Of the store.
        arm: Of `STUDY`.
    """
    knobs = {name: str(value) for name, value in flatten(Config()).items() if value is not None}
    measured = {"test/mIoU": 0.5, "test/accuracy": 0.9}
    measured |= {f"test/IoU/{name}": 0.5 for name in CLASSES}
    by_epoch = ["train/loss", "train/lr", "train/crop_size", "train/images_per_second"]
    by_epoch += ["train/epoch_seconds", "dev/mIoU", *(f"system/metric_{i}" for i in range(12))]
    machine = {
        "selftrain.hardware": "2 cores x86_64",
        "selftrain.processes": "1",
        "selftrain.torch": "2.15.0",
        "mlflow.source.git.commit": "0123456789abcdef",
    }
    history = [Metric(name, 0.5, 0, step) for name in by_epoch for step in range(STEPS)]
    last = [Metric(name, value, 0, 0) for name, value in measured.items()]
    trained = _record(uri, "train", machine, knobs, [*history, Metric("train/seconds", 60, 0, 0)])
    evaluated = _record(uri, "evaluate", {}, {"evaluate.inference.window": "0"}, last)
    tags = {
        "selftrain.study": STUDY,
        "selftrain.benchmark": "scenes",
        "selftrain.arm": arm,
        "selftrain.seed": "0",
        "selftrain.trained": trained,
        "selftrain.evaluated": evaluated,
    }
    seconds = [Metric("train/seconds", 60, 0, 0), Metric("dev/mIoU", 0.5, 0, 0)]
    return [trained, evaluated, _record(uri, "arm", tags, {}, [*last, *seconds])]


def _record(
    uri: str, stage: str, tags: dict[str, str], params: dict[str, str], metrics: list[Metric]
) -> str:
    client = MlflowClient(uri)
    run_id = str(client.create_run("0", run_name=stage).info.run_id)
    tags = {"selftrain.stage": stage, "selftrain.key": run_id[:16], **tags}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    items = list(params.items())
    for start in range(0, len(items), 100):
        some = [Param(name, value) for name, value in items[start : start + 100]]
        client.log_batch(run_id, params=some)
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    client.set_terminated(run_id, "FINISHED")
    return run_id


def copy_trial(database: Path, run_ids: list[str], times: int) -> None:
    """Copy the runs of a trial so often, each copy with a seed of its own.

    Args:
        database: SQLite, of the store.
        run_ids: Of `record_trial`.
        times: Copies.
    """
    with sqlite3.connect(database) as connection:
        for seed in range(1, times + 1):
            fresh = {run_id: uuid.uuid4().hex for run_id in run_ids}
            for run_id, copy in fresh.items():
                for table in ("runs", *_TABLES):
                    _copy(connection, table, run_id, copy)
                # What names another run of the trial names the copy's.
                for old, new in fresh.items():
                    connection.execute(
                        "UPDATE tags SET value = ? WHERE run_uuid = ? AND value = ?",
                        (new, copy, old),
                    )
                connection.execute(
                    "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'selftrain.seed'",
                    (str(seed), copy),
                )
                connection.execute(
                    "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'selftrain.key'",
                    (copy[:16], copy),
                )
    connection.close()


def _copy(connection: sqlite3.Connection, table: str, run_id: str, copy: str) -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    others = [name for name in columns if name != "run_uuid"]
    names = ", ".join(f'"{name}"' for name in others)
    connection.execute(
        f"INSERT INTO {table} (run_uuid, {names}) SELECT ?, {names} FROM {table} "
        "WHERE run_uuid = ?",
        (copy, run_id),
    )
