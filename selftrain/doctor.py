"""`python -m selftrain doctor`: is all there that a command needs? Seconds, and nothing is changed.

No database is made, no lock is taken, no file is left; what the checks look at is listed, and not
opened. torch is asked in a process of its own meanwhile.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from selftrain import progress
from selftrain.config import Config
from selftrain.doctor_checks import (
    LATE,
    SECONDS,
    Check,
    check_cores,
    check_data,
    check_leftovers,
    check_outputs,
    check_packages,
    check_python,
    check_store,
)
from selftrain.doctor_torch import check_torch
from selftrain.summary import Summary

_CHECKS: Mapping[str, Callable[[Config], Sequence[Check]]] = {
    "torch": check_torch,  # first: it takes longest
    "python": check_python,
    "packages": check_packages,
    "cores": check_cores,
    "outputs": check_outputs,
    "store": check_store,
    "leftovers": check_leftovers,
    "data": check_data,
}
_ORDER = ("ok", "warning", "failed")
_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def examine(config: Config) -> Summary:
    """Check the machine for what a config needs, and show what was found.

    Returns:
        The end of the command; `failed` if a command would fail.
    """
    checks = _run_checks(config)
    _show(checks)
    counts = {status: sum(it.status == status for it in checks) for status in _ORDER}
    failed = [it for it in checks if it.status == "failed"]
    sentence = ""
    if failed:
        # Where the table is not seen, the sentence has to say it all.
        is_seen = progress.chosen() == progress.Output()
        reasons = [it.name if is_seen else f"{it.name}: {it.found}" for it in failed]
        sentence = f"{len(failed)} of {len(checks)} checks failed: {'; '.join(reasons)}"
    return Summary(
        what=", ".join(f"{count} {status}" for status, count in counts.items()),
        details={"checks": [it.as_json() for it in checks]},
        failed=sentence,
    )


def _run_checks(config: Config) -> list[Check]:
    """Run all checks at once, and do not wait for those that hang."""
    found: dict[str, Sequence[Check]] = {}

    def run(name: str) -> None:
        try:
            found[name] = _CHECKS[name](config)
        except Exception as error:  # a doctor tells, and does not fall ill
            text = f"it could not be checked ({type(error).__name__}: {error})"
            found[name] = [Check(name, "warning", text)]

    deadline = time.monotonic() + SECONDS
    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in _CHECKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    missing = {name: [Check(name, "warning", LATE)] for name in _CHECKS if name not in found}
    order = ["python", "packages", "torch", "cores", "outputs", "store", "leftovers", "data"]
    return [check for name in order for check in {**found, **missing}[name]]


def _show(checks: Sequence[Check]) -> None:
    """Show the checks: as a table in a terminal, a line each elsewhere."""
    if not progress.is_terminal():
        width = max(len(it.name) for it in checks)
        for it in checks:
            cure = f" -> {it.cure}" if it.cure else ""
            progress.say(f"{it.status:7}  {it.name:{width}}  {it.found}{cure}")
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for it in checks:
        text = f"{it.found}\n-> {it.cure}" if it.cure else it.found
        table.add_row(f"[{_STYLES[it.status]}]{it.status}[/]", it.name, escape(text))
    progress.draw(table)
