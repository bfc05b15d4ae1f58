"""Tables of results inside a text, between markers, so that no number is typed by hand.

    python -m analysis.splice README.md docs/performance.md ...

Between `<!-- table: scenes/table2_pseudo_ratio -->` and `<!-- end -->` stands
`results/scenes/table2_pseudo_ratio.md`, and for `<!-- table: speed/crop -->` what is made of
`results/speed/crop.json`. The folder `results` lies beside the text or beside its folder.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.performance import CUDA, FOLDER, NOT_MEASURED, render_record
from selftrain.errors import InputError
from selftrain.files import write_atomically

_MARKED = re.compile(r"(<!-- table: (?P<name>\S+) -->\n)(?P<inside>.*?)(<!-- end -->)", re.DOTALL)
_BEGIN = re.compile(r"<!-- table:")


def splice(text: str, results: Path) -> str:
    """Return a text with the tables between its markers as they are in the results.

    Args:
        text: Has the markers.
        results: Folder of results.

    Raises:
        InputError: a table is not there, or a marker has no end.
    """

    def table(found: re.Match[str]) -> str:
        of_speed = found["name"].startswith(f"{FOLDER}/")
        path = results / f"{found['name']}.{'json' if of_speed else 'md'}"
        is_measured = path.is_file()
        if not is_measured and not found["name"].startswith(f"{CUDA}/"):
            raise InputError(
                f"There is no {path} for the marker {found['name']}: build the report that writes "
                "it, or take the marker away."
            )
        if _BEGIN.search(found["inside"]):
            raise InputError(
                f"The marker of the table {found['name']} has no <!-- end -->: add it below."
            )
        if not is_measured:
            return f"{found[1]}{NOT_MEASURED}{found[4]}"
        inside = render_record(path) if of_speed else path.read_text()
        return f"{found[1]}{inside}{found[4]}"

    spliced, count = _MARKED.subn(table, text)
    if count < len(_BEGIN.findall(text)):
        raise InputError(
            "A marker <!-- table: NAME --> is not followed by <!-- end -->: write both on lines of "
            "their own."
        )
    return spliced


def find_results(text: Path) -> Path:
    """Return the folder of results that belongs to a text."""
    beside = text.parent / "results"
    return beside if beside.is_dir() else text.resolve().parent.parent / "results"


def main(argv: Sequence[str]) -> None:
    """Renew the tables in the texts that are named."""
    if not argv:
        raise InputError("Name the texts: python -m analysis.splice README.md.")
    for path in map(Path, argv):
        text = path.read_text()
        spliced = splice(text, find_results(path))
        if spliced != text:
            write_atomically(path, spliced.encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
