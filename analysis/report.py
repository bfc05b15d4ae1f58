"""Every table and figure that has runs, rebuilt into files and into one page.

    python -m analysis.report --benchmark scenes [--stores URI ...] [--results DIR]
    python -m analysis.report --benchmark scenes --from-csv

The first reads tracking stores, by default the one that is written to, and leaves a CSV of rows
for each study; everything else is drawn from these CSVs, also by the second, which needs no store.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import class_imbalance
from analysis.class_imbalance import draw_imbalance, fetch_frequencies
from analysis.figure2_schedules import draw_schedules
from analysis.measured import Measured, count
from analysis.reading import SWEEPS, Reading, load_reading, reading_names
from analysis.rows import collect, read_rows, tabulate, write_rows
from analysis.section import Section, write_section
from selftrain import progress, tracking
from selftrain.benchmarks import benchmark as require_benchmark
from selftrain.command_line import split_output
from selftrain.errors import InputError, printable
from selftrain.files import remove_leftovers, write_atomically
from selftrain.machine import enough_memory, enough_space
from selftrain.page import render
from selftrain.progress import Output, speaking
from selftrain.summary import Next, Summary, show, to_json

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that is not in the report."""

    what: str
    why: str
    command: str = ""
    """That fills it."""


def build_report(
    benchmark: str, stores: Sequence[str], results: Path, *, pictures: bool = True
) -> Path:
    """Rebuild the tables and figures of a benchmark, and the page of all of them.

    A study without runs in the stores is drawn from the CSV of an earlier report, if there is one.

    Args:
        benchmark: Its name.
        stores: URIs of tracking stores, whose runs count together; none: only CSVs are read.
        results: Folder of results; a folder in it is the benchmark's.
        pictures: Whether networks are asked for the pictures of Figure 4.

    Returns:
        The page.

    Raises:
        InputError: there is no such benchmark, a store cannot be read, or a CSV is damaged.
    """
    require_benchmark(benchmark)
    folder = results / benchmark
    remove_leftovers(folder)
    remarks = _gather(benchmark, stores, folder, pictures) if stores else []
    measured = _read_studies(benchmark, folder)
    sections = [_read(load_reading(name), it) for name, it in measured.items()]
    sections.append(draw_schedules(benchmark))
    if (imbalance := draw_imbalance(folder)) is not None:
        sections.append(imbalance)
    sections.sort(key=lambda it: _place(it.name))
    page = render(
        "report.html",
        folder=Path(__file__).parent / "templates",
        title=f"selftrain on {benchmark}",
        summary=_summarise([it.rows for it in measured.values()]),
        gaps=_list_gaps(benchmark, measured),
        remarks=remarks,
        sections=[_show(section, folder) for section in sections],
    )
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def _gather(benchmark: str, stores: Sequence[str], folder: Path, pictures: bool) -> list[str]:
    """Write the CSVs of what the stores have; return what is to be said of it."""
    runs, remarks = collect(stores, benchmark)
    names = reading_names()
    for name in names:
        mine = [run for run in runs if run.study == name]
        if mine:
            reading = load_reading(name)
            write_rows(folder / f"{name}.csv", tabulate(mine, reading.arms_on(benchmark)))
            remarks += reading.fetch(mine, folder, pictures=pictures)
            progress.say(f"{name}: {len(mine)} runs")
    strange = sorted({run.study for run in runs} - set(names))
    if strange:
        remarks.append(f"Left out, as there is no such study: {', '.join(strange)}.")
    return remarks + (fetch_frequencies(runs, folder) if runs else [])


def _read_studies(benchmark: str, folder: Path) -> dict[str, Measured]:
    """Return the studies that have rows of arms on the benchmark."""
    found = {}
    for name in reading_names():
        arms, path = load_reading(name).arms_on(benchmark), folder / f"{name}.csv"
        if not arms or not path.is_file():
            continue
        rows = read_rows(path)
        if rows["arm"].isin(list(arms)).any():
            found[name] = Measured(
                study=name, benchmark=benchmark, arms=arms, rows=rows, folder=folder
            )
    return found


def _read(reading: Reading, measured: Measured) -> Section:
    return Section(
        name=measured.study,
        title=reading.study.title,
        table=reading.table(measured),
        figures=reading.figures(measured),
        pictures=reading.pictures(measured),
    )


def _place(name: str) -> tuple[int, str]:
    """Order sections: the paper's tables, its figures, then what is beyond the paper."""
    kinds = ("table", "figure", class_imbalance.NAME)
    found = [place for place, kind in enumerate(kinds) if name.startswith(kind)]
    return (found[0] if found else len(kinds)), name


def _show(section: Section, folder: Path) -> dict[str, object]:
    """Write a section's files and return what the page shows of it."""
    drawn = write_section(section, folder)
    pictures = [((folder / file).read_bytes(), note) for file, note in section.pictures.items()]
    return {
        "name": section.name,
        "title": section.title,
        "table": section.table,
        "figures": list(drawn.values()),
        "pictures": pictures,
    }


def _summarise(tables: Sequence[pd.DataFrame]) -> str:
    """Say how much stands behind the tables."""
    if not tables:
        return "No study has a finished run on this benchmark yet."
    rows = pd.concat([table[["study", "key", "hours", "hardware"]] for table in tables])
    trained = rows[rows["key"] != ""].drop_duplicates("key")
    hardware = ", ".join(dict.fromkeys(text for text in rows["hardware"] if text)) or "unknown"
    return (
        f"{count(len(rows), 'run')} of {count(rows['study'].nunique(), 'study', 'studies')}, on "
        f"{count(len(trained), 'training')} of {trained['hours'].sum():.1f} h in all; hardware: "
        f"{hardware}."
    )


def _list_gaps(benchmark: str, measured: dict[str, Measured]) -> list[Gap]:
    """Return the studies without a run, and the arms without some."""
    gaps = []
    for name in reading_names():
        if not load_reading(name).arms_on(benchmark):
            continue
        if name in measured:
            gaps += [Gap(what=name, why=why) for why in measured[name].missing]
            continue
        command = f"mlflow run . -e study -P name={name} -P benchmark={benchmark}"
        if name in SWEEPS:
            command = f"mlflow run . -e sweep -P benchmark={benchmark}"
        gaps.append(Gap(what=name, why="no run", command=command))
    return gaps


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("--benchmark", default="scenes", help="whose runs are read")
    parser.add_argument(
        "--stores",
        nargs="+",
        default=[tracking.store_uri()],
        help="URIs of tracking stores whose runs count together (MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--from-csv", action="store_true", help="read the CSVs instead of stores")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    parser.add_argument(
        "--pictures",
        choices=("true", "false"),
        default="true",
        help="whether networks are asked for the pictures of Figure 4",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> Summary:
    """Build a report; under `mlflow run` it is logged to the command's run.

    Args:
        argv: Without `--quiet` and `--json`.
    """
    words = _parse(argv)
    stores = [] if words.from_csv else words.stores
    page = build_report(words.benchmark, stores, words.results, pictures=words.pictures == "true")
    if "MLFLOW_RUN_ID" in os.environ:
        tracking.connect()
        with tracking.parent_run(f"report {words.benchmark}") as run:
            run.log_files(page.parent, "report")
    gaps = _list_gaps(words.benchmark, _read_studies(words.benchmark, page.parent))
    missing = [Next(why=f"fill a gap ({it.what})", command=it.command) for it in gaps if it.command]
    return Summary(
        what=f"report drawn, {len(gaps)} gaps",
        facts={"look at": str(page)},
        files=[page],
        details={"gaps": [f"{it.what}: {it.why}" for it in gaps]},
        following=missing[:1],
    )


def run(argv: Sequence[str]) -> int | str:
    """Run the command; return the exit code, or the sentence of a mistake."""
    began, output = time.monotonic(), Output()
    try:
        output, words = split_output(argv)
        with enough_memory(), enough_space(), speaking(output):
            summary = main(words)
            if not output.json:
                show("report", time.monotonic() - began, summary)
        if output.json:
            print(to_json("report", time.monotonic() - began, summary))
    except InputError as error:
        if output.json:
            seconds = time.monotonic() - began
            print(to_json("report", seconds, None, status="failed", error=printable(error)))
        return f"error: {printable(error)}"
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
