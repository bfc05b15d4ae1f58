"""Tracking stores and databases that cannot be used: named, without a password."""

import os
from pathlib import Path

import pytest

from bad_input.world import World, fail


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9", ["http://127.0.0.1:9", "start the server"]),
        ("http://me:hush@127.0.0.1:9", ["me:***@127.0.0.1:9", "start the server"]),
        ("http://me:hu/sh@127.0.0.1:9", ["me:***@127.0.0.1:9", "MLFLOW_TRACKING_URI"]),
        ("http://me:hu@sh@127.0.0.1:9", ["me:***@127.0.0.1:9", "start the server"]),
        ("http://127.0.0.1:99999", ["http://127.0.0.1:99999", "MLFLOW_TRACKING_URI"]),
        ("ftp://127.0.0.1/x", ["ftp://127.0.0.1/x", "MLFLOW_TRACKING_URI"]),
        ("nosuch://me:hush@127.0.0.1/x", ["me:***@", "MLFLOW_TRACKING_URI"]),
        ("postgresql://me:hush@127.0.0.1:9/x", ["me:***@127.0.0.1:9", "start the server"]),
        ("postgresql://127.0.0.1:9/x?user=me&password=hush", ["127.0.0.1:9", "start the server"]),
        ("sqlite:////proc/nowhere/mlflow.db", ["/proc/nowhere", "MLFLOW_TRACKING_URI"]),
        ("sqlite:///{folder}/text.db", ["text.db", "MLFLOW_TRACKING_URI"]),
        ("sqlite:///{folder}", ["{folder}", "MLFLOW_TRACKING_URI"]),
        ("sqlite:///{folder}/a%20b/mlflow.db", ["a%20b", "no URI of SQLite", "another folder"]),
        ("sqlite:///{folder}/a?b/mlflow.db", ["a?b", "no URI of SQLite", "another folder"]),
        ("{folder}/runs", ["{folder}/runs", "MLFLOW_TRACKING_URI"]),
        ("file://{folder}/runs", ["{folder}/runs", "MLFLOW_TRACKING_URI"]),
    ],
)
def test_a_store_that_cannot_be_used_is_named_without_its_password(
    uri: str, words: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "text.db").write_text("this is no database at all" * 100)
    folder = str(world.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("{folder}", folder))
    message = fail(world.scenes("teacher"), monkeypatch)
    assert len(message.splitlines()) == 1
    for word in ["error: ", *words]:
        assert word.replace("{folder}", folder) in message
    assert "hu" not in message.split("127.0.0.1")[0].replace("hundred", "")
    assert "hush" not in message
    assert not (world.folder / "outputs").exists()


def test_a_store_that_may_not_be_read_is_named(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(own_world.folder / "mlflow.db")
    store.chmod(0)
    if os.access(store, os.R_OK):
        pytest.skip("this user may read everything")
    message = fail(own_world.scenes("teacher"), monkeypatch)
    assert "mlflow.db" in message
    assert "MLFLOW_TRACKING_URI" in message
