"""The notebook runs from top to bottom, and is committed without what it has printed."""

from pathlib import Path

import nbformat
import pytest
from conftest import OwnStore
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = """
FOLDER = "quickstart"
IMAGES = 16
EPOCHS = 1
CROP = 32
"""


@pytest.fixture(scope="module")
def executed(
    own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory
) -> nbformat.NotebookNode:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "quickstart").mkdir()
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    (parameters,) = (it for it in notebook.cells if "parameters" in it.metadata.get("tags", ()))
    parameters.source = SMALL
    with own_store(folder / "quickstart"):  # made already: a new one takes seconds
        pass
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[object]:
    """Return what the cells have shown in one form."""
    return [
        it.data[kind]
        for cell in notebook.cells
        for it in cell.get("outputs", ())
        if it.output_type == "execute_result" and kind in it.data
    ]


def test_every_cell_runs_and_pictures_are_shown(executed: nbformat.NotebookNode) -> None:
    assert len(outputs(executed, "image/png")) == 3
    said = [it for cell in executed.cells for it in cell.get("outputs", ())]
    assert [it.text for it in said if it.get("name") == "stderr"] == []


def test_it_ends_with_the_comparison(executed: nbformat.NotebookNode) -> None:
    (table,) = outputs(executed, "text/html")
    assert "student - control" in str(table)
    assert "test mIoU" in str(table)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_sizes_that_the_test_shrinks_are_those_of_the_notebook() -> None:
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    (parameters,) = (it for it in notebook.cells if "parameters" in it.metadata.get("tags", ()))
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    assert names == [line.split(" = ")[0] for line in SMALL.strip().splitlines()]
