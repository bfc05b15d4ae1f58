"""The tracking store: whether it is there, lets us in and can be written, and what it has.

Nothing is written here but what tells whether it can be.
"""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Set before mlflow is imported: it reads some of them once.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "2")
# Left to itself mlflow tries for minutes, and the training waits. What it gives up is kept and
# delivered later. One more try is for a connection that the server had closed meanwhile.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import mlflow
from mlflow.tracking.context.registry import resolve_tags

from selftrain.checkpoint import NETWORK
from selftrain.errors import InputError
from selftrain.passwords import hide_passwords
from selftrain.saved_views import view_tags
from selftrain.store_address import absolute, require_answer
from selftrain.store_address import ping as ping  # as the others, of the store for its users
from selftrain.store_address import reason_of as reason_of
from selftrain.store_address import shown_uri as shown_uri
from selftrain.store_address import store_uri as store_uri

KEY_TAG = "selftrain.key"
STAGE_TAG = "selftrain.stage"
PRODUCT_TAG = "selftrain.product"
"""Of a command's own run: names the run of what it has made."""
UPSTREAM = "selftrain.upstream."
"""Beginning of the tags that name the runs from which a product was made."""
MODEL = "model"
"""Name of the logged model of a training run; `runs:/ID/model` loads it."""
MODEL_ARTIFACTS = f"{MODEL}/artifacts/{NETWORK}"
"""Where the logged model keeps the network, below `runs:/ID/`."""
_BEGIN_TAG = "selftrain.begin"
"""Names one attempt to begin a run, so that it is found if the store's answer is lost."""
_MOST_RUNS = 5000
"""In one answer of a store."""
_LEAST_FREE = 100 * 2**20
"""Bytes that must be free where artifacts go."""
_REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_CONFLICT",
    "RESOURCE_DOES_NOT_EXIST",
}
_DENIALS = {"CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_MISTAKES = (AssertionError, AttributeError, NameError, TypeError)
"""Of the code, not of the store."""

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def connect() -> str:
    """Choose the tracking store, check that it answers, and return the experiment's id.

    Without MLFLOW_TRACKING_URI this is `mlflow.db` in the current folder, like mlflow's own
    default, but as an absolute path, so that a later change of folder cannot start another one.

    Raises:
        InputError: nobody answers at the URI, it is no tracking URI, or it does not let us in.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"] = store_uri()
    if hide_passwords(uri) != uri:
        # mlflow prints the addresses of runs that end, with all that stands in the URI.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    require_answer(uri)
    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        mlflow.set_tracking_uri(uri)
        if run_id is None:
            # Under `mlflow run` the experiment is already chosen: choosing again would raise.
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "selftrain")
            _require_undeleted(name)
            experiment = mlflow.set_experiment(name)
            _offer_views(experiment)
            return str(experiment.experiment_id)
    except InputError:
        raise
    except Exception as error:  # SQLAlchemy, requests and mlflow each raise their own kinds
        raise _unusable(error) from error
    try:
        experiment = mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id)
        _offer_views(experiment)
        return str(experiment.experiment_id)
    except Exception as error:
        if is_denial(error):
            raise _unusable(error) from error
        raise InputError(
            f"The tracking store {hide_passwords(uri)} does not give the run that MLFLOW_RUN_ID "
            f"names ({reason_of(error)}): set MLFLOW_TRACKING_URI to the absolute URI of the store "
            "that has it, or unset MLFLOW_RUN_ID."
        ) from error


def _offer_views(experiment: mlflow.entities.Experiment) -> None:
    """Give the runs table of an experiment its views, unless it has them."""
    client = mlflow.MlflowClient()
    try:
        for tag, value in view_tags(int(time.time() * 1000)).items():
            if tag not in experiment.tags:
                client.set_experiment_tag(experiment.experiment_id, tag, value)
    except Exception as error:
        if isinstance(error, _MISTAKES):
            raise
        # Another process gives them at the same time, or we may not: nothing depends on them.


def _require_undeleted(name: str) -> None:
    found = mlflow.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise InputError(
            f"The experiment {name} of the tracking store {shown_uri()} is deleted: restore it "
            f"(mlflow experiments restore --experiment-id {found.experiment_id}), or set "
            "MLFLOW_EXPERIMENT_NAME to another one."
        )


def is_refusal(error: Exception) -> bool:
    """Say whether the store has understood what it was asked and does not do it, now or later."""
    return isinstance(error, mlflow.MlflowException) and error.error_code in _REFUSALS


def is_denial(error: Exception) -> bool:
    """Say whether the store does not let us in."""
    return isinstance(error, mlflow.MlflowException) and error.error_code in _DENIALS


def is_outage(error: Exception) -> bool:
    """Say whether the store may do later what it does not do now.

    Whatever is no refusal and no mistake of ours may pass: no connection, no answer in time, an
    answer of 500, a full disk, credentials that have expired.
    """
    return not isinstance(error, (InputError, *_MISTAKES)) and not is_refusal(error)


def _unusable(error: Exception) -> InputError:
    """Return what to say of a store that cannot be used."""
    if is_denial(error):
        return InputError(
            f"The tracking store {shown_uri()} does not let us in ({reason_of(error)}): set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to "
            "those of a user who may write to the experiment."
        )
    cure = "see that it is up and can be written"
    if "out-of-date database schema" in str(error):
        cure = "take a backup of it, then run `mlflow db upgrade` with its URI"
    return InputError(
        f"The tracking store {shown_uri()} cannot be used ({reason_of(error)}): {cure}, or set "
        "MLFLOW_TRACKING_URI to another one."
    )


@contextmanager
def http_settings(**settings: int) -> Iterator[None]:
    """Let mlflow's requests in the block have other settings than all others.

    Args:
        settings: Of `MLFLOW_HTTP_REQUEST_...`, which is written in small letters here.
    """
    names = {f"MLFLOW_HTTP_REQUEST_{name.upper()}": str(it) for name, it in settings.items()}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin_run(experiment_id: str, name: str, tags: Mapping[str, str]) -> Callable[[], str]:
    """Return a function that begins a run and returns its id.

    If an attempt fails, call the function again: a run whose beginning the store has noted, while
    its answer was lost, is found and not begun twice.

    Args:
        experiment_id: Where the run goes.
        name: Of the run.
        tags: What it is; to these come mlflow's own, of the user and the source.
    """
    client = mlflow.MlflowClient()
    attempt = uuid.uuid4().hex
    resolved = resolve_tags({**tags, _BEGIN_TAG: attempt})
    has_failed = False

    def begin() -> str:
        nonlocal has_failed
        if has_failed:
            mine = client.search_runs([experiment_id], f"tags.`{_BEGIN_TAG}` = '{attempt}'")
            if mine:
                return str(mine[0].info.run_id)
        has_failed = True
        with http_settings(max_retries=0):  # which would begin it twice
            return str(client.create_run(experiment_id, run_name=name, tags=resolved).info.run_id)

    return begin


def adopt_run(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Make the run that `mlflow run` has begun the command's own."""
    client = mlflow.MlflowClient()
    client.update_run(run_id, status="RUNNING", name=name)
    for tag, value in tags.items():
        client.set_tag(run_id, tag, value)


def begin_command(experiment_id: str, name: str, tags: Mapping[str, str], text: str) -> str:
    """Begin a command's run, or adopt that of `mlflow run`, and write an artifact into it.

    Whatever will keep the stages from being recorded is so found before hours of training.

    Args:
        experiment_id: Where the run goes.
        name: Of the run.
        tags: What it is.
        text: Of the artifact `command.txt`.

    Returns:
        The run's id.

    Raises:
        InputError: the store or the place of its artifacts cannot be written.
    """
    client = mlflow.MlflowClient()
    try:
        run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if run_id is None:
            run_id = begin_run(experiment_id, name, tags)()
        else:
            adopt_run(run_id, name, tags)
        place = str(client.get_run(run_id).info.artifact_uri)
    except Exception as error:
        raise _unusable(error) from error
    try:
        _require_space(place)
        client.log_text(run_id, text, "command.txt")
    except Exception as error:
        client.set_terminated(run_id, "FAILED")
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The artifacts of the tracking store {shown_uri()} cannot be written to "
            f"{hide_passwords(place)} ({reason_of(error)}): make room or give access there, or set "
            "MLFLOW_TRACKING_URI to another store."
        ) from error
    return run_id


def _require_space(place: str) -> None:
    """Raise InputError if artifacts go to a folder of this machine that is nearly full."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return
    folder = Path(unquote(parts.path))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        raise InputError(
            f"The artifacts of the tracking store {shown_uri()} go to {folder}, where only "
            f"{free / 2**20:.0f} MiB are free: make room for at least {_LEAST_FREE / 2**20:.0f} "
            "MiB, or set MLFLOW_TRACKING_URI to another store."
        )


def metric_steps(run_id: str, name: str) -> dict[int, float]:
    """Return {step: value} of a metric of a run."""
    found = mlflow.MlflowClient().get_metric_history(run_id, name)
    return {metric.step: metric.value for metric in found}


def metric_names(run_id: str) -> set[str]:
    """Return the names of the metrics of a run."""
    return set(mlflow.get_run(run_id).data.metrics)


def is_running(run_id: str) -> bool:
    """Say whether a run counts as RUNNING; one that is deleted does not."""
    return _is_running(mlflow.get_run(run_id))


def _is_running(run: mlflow.entities.Run) -> bool:
    return bool(run.info.status == "RUNNING" and run.info.lifecycle_stage == "active")


def experiment_of(run_id: str) -> str:
    """Return the id of the experiment that has a run."""
    return str(mlflow.get_run(run_id).info.experiment_id)


def find_finished(key: str) -> str | None:
    """Return the id of the newest FINISHED run with this key, in any experiment."""
    client = mlflow.MlflowClient()
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'FINISHED'",
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None


def running_children(parent_id: str) -> list[str] | None:
    """Return the RUNNING runs among a command's run and its children; None: it is unknown."""
    client = mlflow.MlflowClient()
    try:
        parent = client.get_run(parent_id)
    except mlflow.MlflowException as error:
        if is_refusal(error):
            return None
        raise
    mine = f"tags.`mlflow.parentRunId` = '{parent_id}' and attributes.status = 'RUNNING'"
    found = client.search_runs([parent.info.experiment_id], mine)
    own = [parent_id] if _is_running(parent) else []
    return [*(child.info.run_id for child in found), *own]


@dataclass(frozen=True)
class DataRead:
    """Samples that a run has read."""

    name: str
    """real, dev, pool, pseudo, or an evaluation split."""
    digest: str
    images: int | None
    """None: the run does not say."""


@dataclass(frozen=True)
class Finished:
    """What a finished stage run says about itself."""

    run_id: str
    stage: str
    key: str
    metrics: Mapping[str, float]
    upstream: Mapping[str, str]
    """What it was made from -> run id: teacher, pseudo_labels, start, model. Several are joined
    by +."""
    experiment: str = ""
    """Its id."""
    ended: int = 0
    """Milliseconds since 1970."""
    is_deleted: bool = False
    """In the store's bin."""
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    data: Sequence[DataRead] = ()


def finished(name: str) -> Finished:
    """Look a stage's run up.

    Args:
        name: A run id, `runs:/ID`, or a registered model's `models:/NAME@ALIAS` or
            `models:/NAME/VERSION`.

    Raises:
        InputError: there is no such run, it is no stage's run, or it is not FINISHED.
    """
    try:
        run_id = _run_id(name)
        run = mlflow.get_run(run_id)
    except Exception as error:
        if is_outage(error) and not is_denial(error):
            raise
        raise InputError(
            f"There is no run {name} in {shown_uri()}: "
            "look its id up there, or set MLFLOW_TRACKING_URI to the store that has it."
        ) from error
    if run.info.status != "FINISHED":
        raise InputError(
            f"Run {run_id} is {run.info.status}, not FINISHED: wait for it or start it again."
        )
    tags = run.data.tags
    if KEY_TAG not in tags:
        product = tags.get(PRODUCT_TAG)
        made = f"; what its command has made is run {product}" if product else ""
        raise InputError(
            f"Run {run_id} is not a stage of selftrain: it has no tag {KEY_TAG}{made}."
        )
    return _finished(run)


def _finished(run: mlflow.entities.Run) -> Finished:
    tags = run.data.tags
    upstream = {
        name.removeprefix(UPSTREAM): value
        for name, value in tags.items()
        if name.startswith(UPSTREAM)
    }
    return Finished(
        run.info.run_id,
        tags[STAGE_TAG],
        tags[KEY_TAG],
        dict(run.data.metrics),
        upstream,
        experiment=str(run.info.experiment_id),
        ended=run.info.end_time or 0,
        is_deleted=run.info.lifecycle_stage == "deleted",
        tags=dict(tags),
        params=dict(run.data.params),
        data=[_read(it.dataset) for it in (run.inputs.dataset_inputs if run.inputs else ())],
    )


def _read(data: mlflow.entities.Dataset) -> DataRead:
    try:
        images = int(json.loads(data.profile or "{}")["num_rows"])
    except (ValueError, LookupError, TypeError):  # the profile is a text that anybody may write
        return DataRead(data.name, data.digest, None)
    return DataRead(data.name, data.digest, images)


def measured_on(run: Finished) -> dict[str, str]:
    """Return what a training's dev is: the digest of its images and labels, and their size."""
    digests = {it.name: it.digest for it in run.data}
    sizes = {knob: run.params.get(f"data.{knob}", "") for knob in ("scale", "short_side")}
    return {"digest": digests.get("dev", ""), **sizes}


def evaluations_of(run_id: str) -> list[Finished]:
    """Return the finished evaluations of a network, the newest first, in any experiment."""
    client = mlflow.MlflowClient()
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`{UPSTREAM}model` = '{run_id}' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
    )
    return [_finished(run) for run in found if KEY_TAG in run.data.tags]


def _run_id(name: str) -> str:
    if name.startswith("models:/"):
        return str(mlflow.models.get_model_info(name).run_id)
    return name.removeprefix("runs:/").split("/")[0]


@dataclass(frozen=True)
class Recorded:
    """A stage's finished run, as its store has it."""

    store: str
    run_id: str
    ended: int
    """Milliseconds since 1970."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def read_store(uri: str) -> list[Recorded]:
    """Return the FINISHED runs of stages in a store, in any of its experiments.

    They come by one search: thousands of runs are read in seconds.

    Args:
        uri: Of the store, whichever is the one to write to.

    Raises:
        InputError: there is no store, or it cannot be read.
    """
    uri = absolute(uri)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.is_file():
        # mlflow would make an empty one.
        raise InputError(f"There is no tracking store {file}: name one that there is.")
    require_answer(uri)
    try:
        client = mlflow.MlflowClient(uri)
        experiments = [it.experiment_id for it in client.search_experiments()]
        wanted = f"tags.`{KEY_TAG}` LIKE '%' and attributes.status = 'FINISHED'"
        runs: list[mlflow.entities.Run] = []
        token: str | None = ""
        while token is not None and experiments:
            page = client.search_runs(
                experiments, wanted, max_results=_MOST_RUNS, page_token=token or None
            )
            runs += page
            token = page.token or None
    except Exception as error:  # SQLAlchemy, requests and mlflow each raise their own kinds
        raise InputError(
            f"The tracking store {hide_passwords(uri)} cannot be read ({reason_of(error)}): "
            "start it, or name another one."
        ) from error
    return [
        Recorded(
            uri,
            run.info.run_id,
            run.info.end_time or 0,
            dict(run.data.tags),
            dict(run.data.params),
            dict(run.data.metrics),
        )
        for run in runs
    ]


def download(uri: str, folder: Path, store: str | None = None) -> Path:
    """Fetch an artifact folder (`runs:/ID/path`, `models:/name@alias/path`) into `folder`.

    Args:
        uri: Of the artifact folder, or of a file.
        folder: Where it goes.
        store: That has the run; None: the one that is written to.

    Returns:
        The path of the fetched folder, inside `folder`.

    Raises:
        InputError: it cannot be fetched.
    """
    before = mlflow.get_tracking_uri()
    try:
        # mlflow's own argument tracking_uri does not reach what it looks a logged model up with.
        mlflow.set_tracking_uri(store or before)
        # A server may fetch a large file from elsewhere before it sends the first byte.
        with http_settings(timeout=120, max_retries=3):
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except Exception as error:
        raise InputError(
            f"{uri} cannot be fetched from the tracking store: {reason_of(error)}"
        ) from error
    finally:
        mlflow.set_tracking_uri(before)
