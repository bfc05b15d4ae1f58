"""Backbones that start from another run's network or from a registered model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import OwnStore
from miniature import tiny_config

from selftrain import tracking
from selftrain.checkpoint import WEIGHTS
from selftrain.clean_pool import read_labelled
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override
from selftrain.pipeline import Pipeline
from selftrain.stage import Product

SMALL: dict[str, Scalar] = {
    "teacher.network.name": "linear",
    "teacher.network.backbone": "mobilenet_v2",
    "teacher.network.output_stride": 32,
}


@pytest.fixture(scope="module")
def config(
    own_store: OwnStore, scenes_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Config]:
    """The tiny pipeline with a network that has a backbone."""
    folder = tmp_path_factory.mktemp("weights")
    with own_store(folder):
        tracking.connect()
        yield override(tiny_config(scenes_root, folder / "outputs"), SMALL)


@pytest.fixture(scope="module")
def source(config: Config) -> Product:
    """A training, and its network as the champion of a registered model."""
    trained = Pipeline(config).teacher
    mlflow.register_model(f"runs:/{trained.run_id}/{tracking.MODEL}", "streets")
    mlflow.MlflowClient().set_registered_model_alias("streets", "champion", 1)
    return trained


def teacher(config: Config, weights: str) -> Product:
    values: dict[str, Scalar] = {"teacher.seed": 1, "teacher.network.backbone_weights": weights}
    return Pipeline(override(config, values)).teacher


def test_a_backbone_counts_by_its_content_however_it_is_named(
    config: Config, source: Product
) -> None:
    made = teacher(config, f"runs:/{source.run_id}")
    assert not made.is_reused
    assert made.key != Pipeline(override(config, {"teacher.seed": 1})).teacher.key
    run = mlflow.get_run(made.run_id).data
    assert run.tags["selftrain.upstream.backbone_weights"] == source.run_id
    assert run.params["teacher.network.backbone_weights"] == f"runs:/{source.run_id}"
    named = ("models:/streets@champion", "models:/streets/1", str(source.folder / WEIGHTS))
    for name in named:
        again = teacher(config, name)
        assert again.is_reused
        assert again.key == made.key


def test_what_a_backbone_has_learned_counts_as_learned(config: Config, source: Product) -> None:
    """Its weights come from a training on labels of images that are now in the pool."""
    more = Pipeline(override(config, {"data.labelled_fraction": 0.9}))
    learned = read_labelled(more.teacher.folder)
    fewer = override(config, {"data.labelled_fraction": 0.5, "teacher.seed": 2})
    weights = {"teacher.network.backbone_weights": f"runs:/{more.teacher.run_id}"}
    made = Pipeline(override(fewer, weights))
    assert set(learned) <= set(read_labelled(made.teacher.folder))
    with pytest.raises(InputError, match=r"is one it was trained on"):
        made.pseudo_labels  # noqa: B018  # a property that labels


def test_weights_that_are_in_the_store_alone_are_fetched(config: Config, source: Product) -> None:
    made = teacher(config, f"runs:/{source.run_id}")
    shutil.rmtree(source.folder)
    assert teacher(config, "models:/streets@champion").key == made.key


def test_weights_of_another_backbone_are_refused_with_what_differs(
    config: Config, source: Product
) -> None:
    other = override(config, {"teacher.network.backbone": "resnet50"})
    with pytest.raises(InputError, match=r"does not fit resnet50: .* missing: bn1\.bias"):
        teacher(other, f"runs:/{source.run_id}")


@pytest.mark.parametrize("name", ["runs:/0123456789abcdef", "models:/nothing@champion"])
def test_weights_that_nobody_has_are_named(config: Config, name: str) -> None:
    with pytest.raises(InputError, match=rf"There is no run {name}"):
        teacher(config, name)
