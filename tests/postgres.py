"""A real PostgreSQL, on a socket in a folder of its own (Debian: apt-get install postgresql)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

USER = "sweeper"


def find_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def started_postgres(password: str = "") -> Iterator[str]:
    """Start a server and yield the URI of its empty database; skip the test where there is none.

    Args:
        password: That it asks for; empty: none.
    """
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    owner = pwd.getpwuid(os.geteuid()).pw_name
    if owner == "root":  # whom initdb refuses
        owner = "postgres"
    # Not pytest's folder, which another user cannot enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    shutil.chown(folder, owner)

    def call(program: str, *words: str) -> None:
        subprocess.run(
            [programs / program, "-D", folder / "data", *words],
            cwd=folder,
            user=owner if os.geteuid() == 0 else None,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    try:
        asks = ["--auth=trust"]
        if password:
            (folder / "password").write_text(password)
            asks = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        call("initdb", *asks, "--no-sync", f"--username={USER}")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "start", "-w", f"--log={folder / 'log'}", f"--options={options}")
        secret = f":{quote(password, safe='')}" if password else ""
        yield f"postgresql://{USER}{secret}@/postgres?host={folder}"
        call("pg_ctl", "stop", "-w", "--mode=immediate")
    finally:
        shutil.rmtree(folder)
