"""The table that a pipeline is run for: teacher, control and student side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from selftrain import progress
from selftrain.files import write_atomically


def compare(
    metrics: Mapping[str, Mapping[str, float]], splits: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Put the metrics of several models beside each other.

    Args:
        metrics: Model -> its metrics as `evaluate` names them.
        splits: Evaluation splits; the IoU of each class is given for the first.
        classes: Names of the classes.

    Returns:
        A row a metric, a column a model, in percent; and, where both are there, the column
        `student - control`, the gain at equal iterations. A class that does not occur is NaN.
    """
    wanted = {f"{split} mIoU": f"{split}/mIoU" for split in splits}
    wanted |= {f"{splits[0]} IoU {name}": f"{splits[0]}/IoU/{name}" for name in classes}
    table = pd.DataFrame({"metric": list(wanted)})
    for model, found in metrics.items():
        table[model] = [100 * found.get(key, float("nan")) for key in wanted.values()]
    if {"student", "control"} <= set(metrics):
        table["student - control"] = table["student"] - table["control"]
    return table


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown; what was not measured is "-"."""
    known = table.astype(object).where(table.notna(), None)  # NaN would be printed as nan
    return str(known.to_markdown(index=False, floatfmt=".2f", missingval="-"))


def show(table: pd.DataFrame, title: str) -> None:
    """Print the table: framed in a terminal that is wide enough, as Markdown elsewhere."""
    shown = Table(title=title)
    for column in table.columns:
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for row in table.itertuples(index=False):
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        shown.add_row(*("-" if cell == "nan" else cell for cell in cells))
    if progress.is_terminal() and progress.fits(shown):
        progress.draw(shown)
    else:
        progress.say(f"{title}\n\n{to_markdown(table)}\n")


def write(table: pd.DataFrame, notes: Sequence[str], folder: Path) -> Path:
    """Write the table as CSV and Markdown; return the Markdown file.

    Args:
        table: From `compare`.
        notes: How the numbers were made and the keys of their runs, a line each.
        folder: Where `comparison.csv` and `comparison.md` go.
    """
    write_atomically(folder / "comparison.csv", table.to_csv(index=False).encode())
    lines = [to_markdown(table), "", *(f"- {line}" for line in notes), ""]
    path = folder / "comparison.md"
    write_atomically(path, "\n".join(lines).encode())
    return path
