"""What the program must never do, whoever asks: be reached from elsewhere, or tell a password."""

import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import mlflow
import psycopg
import pytest
from miniature import TINY, flags
from optuna.pruners import NopPruner
from postgres import find_programs, started_postgres
from reliability import Survived

from selftrain.__main__ import main
from selftrain.errors import InputError
from selftrain.knobs import Scalar
from selftrain.sweep_storage import open_study

REPOSITORY = Path(__file__).parents[1]
SERVERS = re.compile(r"\bmlflow\"?,?\s+\"?(ui|server|models\"?,?\s+\"?serve)\b(?!\.)")
"""A command that starts a server of MLflow's, in a text or as words in code."""
IN_CONTAINERS = REPOSITORY / "compose.yaml"
"""Its server listens on all addresses of a container, and is published on this machine's own alone:
test_containers.py looks at what it publishes."""
NEAR = 8
"""Lines of a command, at most: those of a list of words, or of a shell's continued line."""
PASSWORD = "hush-4711/a@b"  # characters that a URI wants percent-encoded
ENCODED = "hush-4711%2Fa%40b"


def texts() -> Iterator[tuple[Path, list[str]]]:
    """Yield the lines of every text that git knows, or would if it were added."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = REPOSITORY / name
        is_text = path.suffix in ("", ".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".html")
        if is_text and path.is_file() and not path.is_symlink():
            yield path, path.read_text(errors="replace").splitlines()


def test_every_server_that_a_text_or_a_test_starts_is_reached_from_this_machine_alone() -> None:
    starts = []
    for path, lines in texts():
        if path in (Path(__file__), IN_CONTAINERS):
            continue
        for number, line in enumerate(lines):
            # A sentence may speak of a server; a command has options, or is a list of words.
            block = " ".join(lines[number : number + NEAR])
            if SERVERS.search(line) and re.search(r"--(host|port|backend-store-uri)\b", block):
                starts.append(f"{path.relative_to(REPOSITORY)}:{number + 1}")
                assert re.search(r"--host\"?,?[ =]\"?127\.0\.0\.1", block), starts[-1]
    assert any(start.startswith("Makefile") for start in starts)
    assert any(start.startswith("tests/") for start in starts)


def test_no_server_of_ours_is_bound_to_every_address() -> None:
    for path, lines in texts():
        for line in lines if path not in (Path(__file__), IN_CONTAINERS) else ():
            assert "0.0.0.0" not in line, f"{path}: {line}"


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert len(wanted) > 20
    for requirement in wanted:
        if not requirement.startswith("selftrain["):
            assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", requirement), requirement


def said(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that fails, and return its sentence."""
    monkeypatch.setattr(sys, "argv", ["selftrain", *command])
    with pytest.raises(SystemExit) as caught:
        main()
    return str(caught.value.code)


def sweep(scenes_root: Path, outputs: Path, storage: str) -> list[str]:
    knobs: dict[str, Scalar] = {
        **TINY,
        "machine.data_root": scenes_root,
        "machine.outputs": outputs,
        "sweep.storage": storage,
        "sweep.trials": 1,
        "sweep.retrain": 0,
    }
    return ["sweep", *flags(knobs)]


@pytest.mark.parametrize(
    "storage",
    [
        "mysql://me:hush-4711@127.0.0.1/x",
        "mysql://me:hush-4711/a@b@127.0.0.1/x",
        "postgres://me:hush-4711@127.0.0.1/x",
        "postgresql://me:hush-4711@127.0.0.1:9/x",
        "postgresql://me:hush-4711/a@127.0.0.1:9/x",
        "postgresql://me:a@hush-4711@127.0.0.1:9/x",
        "postgresql://me:hush-4711%zz@127.0.0.1:9/x",
        "postgresql://me@127.0.0.1:9/x?password=hush-4711",
        "postgresql://me@127.0.0.1:9x/x?password=hush-4711",
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(
    storage: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        open_study(storage, "x", tmp_path, directions=["maximize"], pruner=NopPruner())
    assert "sweep.storage" in str(caught.value)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def assert_nowhere(secret: str, folder: Path) -> None:
    """Look for a text in all that lies in a folder, databases included."""
    assert (folder / "mlflow.db").is_file()
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of a PostgreSQL that asks for `PASSWORD`."""
    with started_postgres(PASSWORD) as uri:
        assert ENCODED in uri
        yield uri


def test_a_sweep_on_a_database_with_a_password_writes_it_nowhere(
    database: str,
    store: str,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("selftrain.sweep.draw_study", lambda study, front_of: [])  # takes seconds
    monkeypatch.setattr(
        sys, "argv", ["selftrain", *sweep(scenes_root, tmp_path / "outputs", database)]
    )
    main()
    printed = capfd.readouterr()
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {"trial", "train", "pseudo_label"} <= {run.data.tags["selftrain.stage"] for run in runs}
    for secret in (PASSWORD, ENCODED, "hush-4711"):
        assert secret not in printed.out + printed.err
        assert secret not in str([run.to_dictionary() for run in runs])
        assert_nowhere(secret, tmp_path)


def test_a_wrong_password_is_refused_without_it(
    database: str,
    store: str,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Through the command, of which the words reach MLflow.
    wrong = database.replace(ENCODED, "hush-0815")
    sentence = said(sweep(scenes_root, tmp_path / "outputs", wrong), monkeypatch)
    assert "password authentication failed" in sentence
    assert "hush" not in sentence
    assert_nowhere("hush-0815", tmp_path)


@pytest.mark.torture
def test_with_the_tracking_store_on_that_database_too_the_password_is_nowhere(
    database: str,
    store: str,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    survived: Survived,
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE tracking")
    both = database.replace("/postgres?", "/tracking?")
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", both.replace("postgresql://", "postgresql+psycopg://")
    )
    sentence = said(sweep(scenes_root, tmp_path / "outputs", both), monkeypatch)
    assert "give the sweep a database of its own" in sentence

    command = sweep(scenes_root, tmp_path / "outputs", database)
    monkeypatch.setattr(sys, "argv", ["selftrain", *command])
    main()
    printed = capfd.readouterr()
    programs = find_programs()
    assert programs is not None
    dump = subprocess.run(
        [shutil.which("pg_dump") or programs / "pg_dump", both], capture_output=True, check=True
    ).stdout
    assert b"COPY public.runs" in dump
    for secret in (PASSWORD, ENCODED, "hush-4711"):
        assert secret not in printed.out + printed.err
        assert secret.encode() not in dump
        assert_nowhere(secret, tmp_path)
    survived(
        "Password of a database, with sweep and runs on PostgreSQL",
        tried="1 sweep",
        found="in no message, no product, and nowhere in the dump of the database",
    )
