"""Versions of registered models: one for each run, aliases that move, a champion.

Every step looks first at what is there, so that a registration may be delivered twice, or go on
where a dead process has stopped.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from selftrain import progress, store
from selftrain.errors import InputError
from selftrain.locks import FileLock

CHAMPION = "champion"
LONGEST = 5000
"""Characters of a description that a store's database takes."""
MIOU_TAG, MEASURED_TAG = "selftrain.dev_miou", "selftrain.measured_on"
_ASKED_TAG = "selftrain.asked."
"""Beginning of the tags that say when a version was last given an alias: milliseconds."""
_MARK = "\n\n<!-- selftrain {} -->"
"""Last line of a description that nobody else has written, with the digest of what is above."""
_MARK_LENGTH = len(_MARK.format("0" * 16))
_PATIENCE = 30.0
"""Seconds to wait for another process that registers; its steps take a second together."""
_ABOUT = (
    "Networks of the benchmark {} made by selftrain. The alias `teacher` or `student` is what a "
    "command has last asked for, `champion` the best on dev."
)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """That a run's network is to be a version of a registered model."""

    name: str
    """Of the registered model."""
    role: str
    """What the network is, for those who read."""
    alias: str = ""
    """That is to name this version from now on; "": none but the champion's."""
    description: str
    """Markdown."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What does not change any more."""
    dev_miou: float | None = None
    """0 to 1; None: it was not measured."""
    measured_on: Mapping[str, str] = field(default_factory=dict)
    """What dev is: numbers of different ones are not compared."""
    asked: int
    """When, in milliseconds: what is delivered late moves no alias back."""
    renews: bool = False
    """Write the description of a version that there is, and nothing else."""


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no other process of this folder register meanwhile; who takes too long is not waited for.

    The champion is read and then moved: two at once could leave the worse one.

    Raises:
        InputError: the lock cannot be written.
    """
    lock = FileLock(folder / "registry.lock")
    deadline = time.monotonic() + _PATIENCE
    is_taken = lock.take()
    while not is_taken and time.monotonic() < deadline:
        time.sleep(0.05)
        is_taken = lock.take()
    try:
        yield
    finally:
        if is_taken:
            lock.release()


def register(run_id: str, wanted: Registration) -> None:
    """Make the version, or find it, and move the aliases; say what has become of it.

    Raises:
        InputError: the run has no model.
        MlflowException: the store refuses, or does not answer.
    """
    client = mlflow.MlflowClient()
    version = _find(client, wanted.name, run_id)
    if wanted.renews:
        if version is not None:
            _describe(client, version, wanted.description)
        return
    how = "registered before" if version is not None else "registered"
    if version is None:
        _require_model(client, wanted.name)
        version = _create(client, run_id, wanted)
    _describe(client, version, wanted.description)
    progress.say(f"{wanted.name}: version {version.version} is {wanted.role}, {how}")
    if wanted.alias:
        _move(client, version, wanted)
    progress.say(_choose_champion(client, version, wanted))


def _find(client: mlflow.MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    """Return a run's version, the first of several; those that were made twice at once go."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    first, *others = sorted(found, key=lambda version: int(version.version)) or [None]
    for other in others:
        # What somebody has registered by hand has no tag of ours; its aliases say it is in use.
        whole = client.get_model_version(name, other.version)
        if store.KEY_TAG in whole.tags and not whole.aliases:
            with suppress(mlflow.MlflowException):
                client.delete_model_version(name, other.version)
    return None if first is None else client.get_model_version(name, first.version)


def _require_model(client: mlflow.MlflowClient, name: str) -> None:
    """Make the registered model, unless it is there by now."""
    try:
        client.get_registered_model(name)
    except mlflow.MlflowException as error:
        if not store.is_refusal(error):
            raise
    else:
        return
    try:
        about = _ABOUT.format(name.removeprefix("selftrain-"))
        client.create_registered_model(name, description=about)
    except mlflow.MlflowException as error:
        # Another process was faster, or the answer to the first try was lost.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise


def _create(client: mlflow.MlflowClient, run_id: str, wanted: Registration) -> ModelVersion:
    experiment = client.get_run(run_id).info.experiment_id
    query = f"source_run_id = '{run_id}' AND name = '{store.MODEL}'"
    models = [it for it in client.search_logged_models([experiment], query) if it.status == "READY"]
    if not models:
        raise InputError(
            f"Run {run_id} has no model that could be registered: delete the run (mlflow runs "
            f"delete --run-id {run_id}), and the training is made anew."
        )
    tags = dict(wanted.tags)
    if wanted.dev_miou is not None:
        tags |= {MIOU_TAG: repr(wanted.dev_miou), MEASURED_TAG: json.dumps(wanted.measured_on)}
    with store.http_settings(max_retries=0):  # which would make it twice
        client.create_model_version(
            wanted.name,
            f"models:/{models[0].model_id}",
            run_id,
            tags=tags,
            description=_signed(wanted.description),
            await_creation_for=0,
            model_id=models[0].model_id,
        )
    made = _find(client, wanted.name, run_id)  # the first, if another machine was as fast
    assert made is not None
    return made


def _describe(client: mlflow.MlflowClient, version: ModelVersion, text: str) -> None:
    """Renew a description, unless somebody has edited it."""
    present, signed = version.description or "", _signed(text)
    if present != signed and (not present or _is_own(present)):
        client.update_model_version(version.name, version.version, signed)


def _signed(text: str) -> str:
    limit = LONGEST - _MARK_LENGTH
    kept = text if len(text) <= limit else f"{text[: limit - 4]}\n..."
    return kept + _MARK.format(_digest(kept))


def _is_own(text: str) -> bool:
    return text == (kept := text[:-_MARK_LENGTH]) + _MARK.format(_digest(kept))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _move(client: mlflow.MlflowClient, version: ModelVersion, wanted: Registration) -> None:
    """Let an alias name a version, unless one that was asked for later has it."""
    tag = _ASKED_TAG + wanted.alias
    present = _named(client, wanted.name, wanted.alias)
    if present is not None and present.version != version.version:
        with suppress(ValueError):
            if int(present.tags.get(tag, "0")) > wanted.asked:
                return
    client.set_model_version_tag(wanted.name, version.version, tag, str(wanted.asked))
    client.set_registered_model_alias(wanted.name, wanted.alias, version.version)


def _named(client: mlflow.MlflowClient, name: str, alias: str) -> ModelVersion | None:
    version = client.get_registered_model(name).aliases.get(alias)
    return None if version is None else client.get_model_version(name, str(version))


def _choose_champion(
    client: mlflow.MlflowClient, version: ModelVersion, wanted: Registration
) -> str:
    """Make a version the champion if it is better on the same dev; return what is to be said."""
    present = _named(client, wanted.name, CHAMPION)
    mine, title = wanted.dev_miou, f"champion of {wanted.name}"
    number = f"version {version.version}"
    if present is None:
        if mine is None:
            return f"{title}: none, for {number} was not measured on dev"
        client.set_registered_model_alias(wanted.name, CHAMPION, version.version)
        return f"{title}: {number} (dev mIoU {100 * mine:.2f}), the first"
    theirs, measured_on = _measured(client, present)
    stays = f"{title}: stays version {present.version}"
    stays += "" if theirs is None else f" (dev mIoU {100 * theirs:.2f})"
    if present.version == version.version:
        return stays
    if mine is None or theirs is None:
        lacking = number if mine is None else f"version {present.version}"
        return f"{stays}; {lacking} was not measured on dev"
    reached = f"{number} (dev mIoU {100 * mine:.2f})"
    differing = sorted(
        what
        for what in measured_on.keys() & wanted.measured_on.keys()
        if measured_on[what] != wanted.measured_on[what]
    )
    if differing:
        return f"{stays}; {reached} was measured on another dev split ({', '.join(differing)})"
    if mine <= theirs:
        return f"{stays}; {reached} is not better"
    client.set_registered_model_alias(wanted.name, CHAMPION, version.version)
    return f"{title}: {reached} replaces version {present.version} ({100 * theirs:.2f})"


def _measured(
    client: mlflow.MlflowClient, version: ModelVersion
) -> tuple[float | None, dict[str, str]]:
    """Return what a version has reached on dev, and what that dev is.

    Its tags say so; of a version that somebody has registered by hand, its run.
    """
    with suppress(LookupError, ValueError, AttributeError):
        measured_on = json.loads(version.tags[MEASURED_TAG])
        return float(version.tags[MIOU_TAG]), {k: str(v) for k, v in measured_on.items()}
    if not version.run_id:
        return None, {}
    try:
        run = store.finished(version.run_id)
    except InputError:
        return None, {}
    return run.metrics.get("dev/mIoU"), store.measured_on(run)
