"""A stage is run once."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest

from selftrain import tracking
from selftrain.errors import InputError
from selftrain.stage import PRODUCT, Product, Stage, make_key, run_stage
from selftrain.tracking import Run

WORK = Stage("work", version=1)
IDENTITY = {"lr": 0.1, "data": "abc"}


@pytest.fixture(autouse=True)
def connected(store: str) -> None:
    tracking.connect()


class Work:
    """Writes a file and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0
        self.found: list[str] = []

    def __call__(self, folder: Path, run: Run) -> None:
        self.calls += 1
        self.found = sorted(path.name for path in folder.iterdir())
        (folder / "result.txt").write_text(f"made by call {self.calls}")

    def run(self, identity: Mapping[str, object] = IDENTITY, stage: Stage = WORK) -> Product:
        return run_stage(stage, identity, self, outputs=Path("outputs"), title="work")


def test_a_stage_is_made_once() -> None:
    work = Work()
    first, second = work.run(), work.run()
    assert work.calls == 1
    assert not first.is_reused
    assert second.is_reused
    assert (first.key, first.run_id, first.folder) == (second.key, second.run_id, second.folder)


def test_a_product_lies_under_its_stage_and_key() -> None:
    product = Work().run()
    assert product.folder == Path("outputs") / f"work-{product.key}"
    assert mlflow.get_run(product.run_id).data.tags["selftrain.key"] == product.key


def test_another_identity_is_another_product() -> None:
    work = Work()
    assert work.run().key != work.run({**IDENTITY, "lr": 0.2}).key
    assert work.calls == 2


def test_a_failed_run_is_not_reused_but_what_it_left_is() -> None:
    def fail(folder: Path, run: Run) -> None:
        (folder / "half.txt").touch()
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        run_stage(WORK, IDENTITY, fail, outputs=Path("outputs"), title="work")
    work = Work()
    assert not work.run().is_reused
    assert work.found == ["half.txt"]


def test_a_lost_folder_is_restored_from_the_artifacts() -> None:
    work = Work()
    product = work.run()
    shutil.rmtree(product.folder)
    again = work.run()
    assert work.calls == 1
    assert again.is_reused
    assert (again.folder / "result.txt").read_text() == "made by call 1"
    assert not list(Path("outputs").glob("tmp*"))


def test_a_folder_without_its_mark_is_replaced_by_the_artifacts() -> None:
    work = Work()
    product = work.run()
    (product.folder / "product.json").unlink()
    (product.folder / "result.txt").write_text("half")
    assert (work.run().folder / "result.txt").read_text() == "made by call 1"


def test_lost_artifacts_and_a_lost_folder_are_named() -> None:
    work = Work()
    product = work.run()
    shutil.rmtree(product.folder)
    artifacts = mlflow.get_run(product.run_id).info.artifact_uri.removeprefix("file://")
    shutil.rmtree(Path(artifacts) / PRODUCT)
    with pytest.raises(InputError, match=rf"{product.run_id}/{PRODUCT} cannot be fetched"):
        work.run()
    assert not product.folder.exists()


def test_a_deleted_run_makes_the_product_again_from_what_lies_there() -> None:
    work = Work()
    product = work.run()
    mlflow.delete_run(product.run_id)
    again = work.run()
    assert work.calls == 2
    assert not again.is_reused
    assert again.run_id != product.run_id
    assert work.found == ["result.txt"]  # without the mark: it stood for the deleted run


def test_a_run_that_is_still_going_is_not_reused() -> None:
    key = make_key(WORK, IDENTITY)
    with tracking.stage_run("work", "work", key):
        assert tracking.find_finished(key) is None
    assert tracking.find_finished(key) is not None


@pytest.mark.parametrize(
    "other",
    [
        {**IDENTITY, "lr": 0.2},
        {**IDENTITY, "data": "abd"},
        {**IDENTITY, "more": None},
        {"data": "abc"},
        {"lr": "0.1", "data": "abc"},
    ],
)
def test_every_part_of_the_identity_counts(other: dict[str, object]) -> None:
    assert make_key(WORK, other) != make_key(WORK, IDENTITY)


def test_name_and_version_count_and_the_order_of_the_identity_does_not() -> None:
    key = make_key(WORK, IDENTITY)
    assert make_key(Stage("work", version=2), IDENTITY) != key
    assert make_key(Stage("other", version=1), IDENTITY) != key
    assert make_key(WORK, dict(reversed(IDENTITY.items()))) == key
    assert len(key) == 16


def test_an_output_folder_that_cannot_be_made_is_named() -> None:
    Path("outputs").touch()
    with pytest.raises(InputError, match=r"outputs/work-.*machine\.outputs"):
        Work().run()
