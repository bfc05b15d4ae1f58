"""Teacher, pseudo labels, student: each made once, and found again by what decides it."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import torchvision
from conftest import OwnStore
from hypothesis import given
from hypothesis import strategies as st
from miniature import tiny_config, write_picture
from numpy.typing import NDArray

from selftrain import pipeline as pipeline_module
from selftrain import tracking
from selftrain.actions import ACTIONS
from selftrain.checkpoint import WEIGHTS, load_network
from selftrain.config import Config, EpochConfig, EvaluateConfig, PseudoLabelConfig, TrainConfig
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.selection import select
from selftrain.data.shards import BIN_STARTS
from selftrain.epochs import count_crops, plan_epochs
from selftrain.errors import InputError
from selftrain.identity import decides_training
from selftrain.knobs import Scalar, flatten, override
from selftrain.pipeline import EVALUATE, PSEUDO_LABEL, Pipeline, control_config
from selftrain.stage import Product
from selftrain.trained_runs import TRAIN


@pytest.fixture(scope="module")
def config(
    own_store: OwnStore, scenes_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Config]:
    """The tiny pipeline, run once as far as the student."""
    folder = tmp_path_factory.mktemp("pipeline")
    with own_store(folder):
        tracking.connect()
        config = tiny_config(scenes_root, folder / "outputs")
        _ = Pipeline(config).student
        yield config


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to make something fail."""
    for name in ("train", "label_pool"):
        monkeypatch.setattr(pipeline_module, name, pytest.fail)


def with_values(config: Config, values: Mapping[str, Scalar]) -> Pipeline:
    return Pipeline(override(config, values))


@pytest.mark.usefixtures("no_work")
def test_a_second_call_reuses_everything(config: Config) -> None:
    again = Pipeline(config)
    assert again.student.is_reused
    assert again.pseudo_labels.is_reused
    assert again.teacher.is_reused


def test_the_runs_of_a_pipeline_name_what_they_were_made_from(config: Config) -> None:
    again = Pipeline(config)
    tags = mlflow.get_run(again.student.run_id).data.tags
    assert tags["selftrain.upstream.pseudo_labels"] == again.pseudo_labels.run_id
    tags = mlflow.get_run(again.pseudo_labels.run_id).data.tags
    assert tags["selftrain.upstream.teacher"] == again.teacher.run_id


def test_a_run_logs_what_was_done_in_its_training(config: Config) -> None:
    run = mlflow.get_run(Pipeline(config).student.run_id)
    assert len(run.data.params) <= 60
    assert run.data.params["student.optim.lr"] == "0.05"
    assert run.data.params["student.data.pseudo_ratio"] == "1.0"
    assert {"train/loss", "train/lr", "train/crop_size", "dev/mIoU"} <= set(run.data.metrics)


def test_runs_are_called_by_what_tells_them_apart(config: Config) -> None:
    again = Pipeline(config)
    control, evaluated = again.control, again.evaluate(again.control, "control")
    products = (again.teacher, again.pseudo_labels, again.student, control, evaluated)
    assert [mlflow.get_run(it.run_id).info.run_name for it in products] == [
        "teacher CS s0",
        "pseudo labels of teacher s0",
        "student 1:1 CS s0",
        "control x2 CS s0",
        "evaluate control x2 CS s0",
    ]


def test_runs_of_all_stages_have_the_same_tags_and_params_to_filter_by(config: Config) -> None:
    again = Pipeline(config)
    evaluated = again.evaluate(again.student, "student")
    for product in (again.teacher, again.pseudo_labels, again.student, evaluated):
        data = mlflow.get_run(product.run_id).data
        assert data.tags["selftrain.benchmark"] == data.params["benchmark"] == "scenes"
        assert data.tags["selftrain.seed"] == data.params["seed"] == "0"
        assert data.tags["selftrain.network"] == "fast_scnn"
        assert {"selftrain.stage", "selftrain.role", "selftrain.key"} <= set(data.tags)


def test_a_description_links_the_runs_that_a_product_was_made_from(config: Config) -> None:
    again = Pipeline(config)
    run = mlflow.get_run(again.student.run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{again.pseudo_labels.run_id}"
    text = run.data.tags["mlflow.note.content"]
    assert f"[pseudo labels {again.pseudo_labels.key[:6]}]({page})" in text
    assert "scenes: 4 labelled images (1/2 of them), 4 unlabelled, 2 in dev, 2 in test." in text
    assert "python -m selftrain student --benchmark=scenes" in text


def test_a_run_names_the_digests_of_what_it_read(config: Config) -> None:
    again = Pipeline(config)
    read = mlflow.get_run(again.student.run_id).inputs.dataset_inputs
    digests = {item.dataset.name: item.dataset.digest for item in read}
    assert digests == {
        "real": again.data.labelled_digest,
        "dev": again.data.dev_digest,
        "pseudo": again.pseudo_labels.key,
    }


def test_another_student_is_trained_on_the_same_pseudo_labels(config: Config) -> None:
    other = with_values(config, {"student.seed": 1})
    assert not other.student.is_reused
    assert other.teacher.is_reused
    assert other.pseudo_labels.is_reused
    assert other.student.key != Pipeline(config).student.key


def test_another_teacher_makes_other_pseudo_labels(config: Config) -> None:
    old, new = Pipeline(config), with_values(config, {"teacher.seed": 1, "student.epochs": 1})
    assert new.pseudo_labels.key != old.pseudo_labels.key
    assert not new.pseudo_labels.is_reused


@pytest.mark.usefixtures("no_work")
def test_a_named_teacher_stands_for_the_one_described(config: Config) -> None:
    old = Pipeline(config)
    named = with_values(
        config, {"pseudo_label.teacher": old.teacher.run_id, "teacher.optim.lr": 0.5}
    )
    assert named.pseudo_labels.key == old.pseudo_labels.key
    assert named.student.is_reused


def test_a_threshold_is_applied_without_labelling_again(config: Config) -> None:
    strict = with_values(config, {"student.select.threshold": 0.2})
    assert strict.pseudo_labels.is_reused
    assert not strict.student.is_reused


@pytest.mark.usefixtures("no_work")
def test_a_student_without_pseudo_crops_needs_no_pseudo_labels(
    config: Config, tmp_path: Path
) -> None:
    # It is then the teacher's recipe, and so the teacher.
    plain = with_values(config, {"student.data.pseudo_ratio": 0.0, "student.select.threshold": 0.5})
    assert plain.student.key == plain.teacher.key
    assert "pseudo_labels" not in vars(plain)


@pytest.mark.usefixtures("no_work")
def test_products_come_back_from_the_tracking_store(config: Config, tmp_path: Path) -> None:
    here = Pipeline(config)
    elsewhere = with_values(config, {"machine.outputs": tmp_path / "elsewhere"})
    assert elsewhere.student.is_reused
    weights = here.student.folder / WEIGHTS
    restored = elsewhere.student.folder / WEIGHTS
    assert restored.is_relative_to(tmp_path)
    assert restored.read_bytes() == weights.read_bytes()


def test_a_student_is_trained_from_artifacts_alone(config: Config, tmp_path: Path) -> None:
    values: dict[str, Scalar] = {"student.seed": 2}
    here = with_values(config, values)
    _ = here.student
    mlflow.delete_run(here.student.run_id)
    elsewhere = with_values(config, {**values, "machine.outputs": tmp_path / "elsewhere"})
    assert not elsewhere.student.is_reused
    for file in (WEIGHTS, "model.json"):
        made = (elsewhere.student.folder / file).read_bytes()
        assert made == (here.student.folder / file).read_bytes()


def test_an_evaluation_is_found_by_its_model_and_settings(config: Config) -> None:
    model = Pipeline(config).student
    first = Pipeline(config).evaluate(model, "student")
    assert Pipeline(config).evaluate(model, "again").run_id == first.run_id
    flipped = with_values(config, {"evaluate.inference.flip": True})
    assert flipped.evaluate(model, "student").key != first.key
    named = with_values(config, {"evaluate.model": model.run_id})
    assert named.model_to_evaluate().key == model.key
    assert named.evaluate(named.model_to_evaluate(), "named").run_id == first.run_id


def test_where_things_lie_is_in_no_key(config: Config, tmp_path: Path, scenes_root: Path) -> None:
    moved = shutil.copytree(scenes_root, tmp_path / "moved")
    values: dict[str, Scalar] = {"machine.data_root": moved, "machine.precision": "fp32"}
    assert with_values(config, values).student.key == Pipeline(config).student.key


def test_an_edited_label_makes_another_teacher(
    config: Config, tmp_path: Path, scenes_root: Path
) -> None:
    moved = Path(shutil.copytree(scenes_root, tmp_path / "moved"))
    other = with_values(config, {"machine.data_root": moved})
    label = other.data.splits.labelled[0].label
    assert label is not None
    again = other.data.splits.labelled[1].label
    assert again is not None
    shutil.copy(again.path, label.path)
    assert (
        with_values(config, {"machine.data_root": moved}).teacher.key
        != Pipeline(config).teacher.key
    )


def test_a_weights_file_counts_by_its_content(config: Config, tmp_path: Path) -> None:
    weights = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(weights, tmp_path / "first.pth")
    teachers = []
    for name in ("here.pth", "moved.pth"):
        shutil.copy(tmp_path / "first.pth", tmp_path / name)
        values: dict[str, Scalar] = {
            "teacher.network.name": "deeplabv3plus",
            "teacher.network.backbone": "mobilenet_v2",
            "teacher.network.output_stride": 32,
            "teacher.network.backbone_weights": str(tmp_path / name),
        }
        teachers.append(with_values(config, values).teacher)
    assert [teacher.is_reused for teacher in teachers] == [False, True]
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "moved.pth")
    assert not with_values(config, values).teacher.is_reused


def test_the_whole_pipeline_ends_in_a_table_of_three_models(config: Config) -> None:
    with tracking.parent_run("main") as run:
        ACTIONS["main"](Pipeline(config), run)
    artifacts = f"runs:/{run.run_id}/comparison/comparison"
    header, *rows = mlflow.artifacts.load_text(f"{artifacts}.csv").splitlines()
    assert header == "metric,teacher,control,student,student - control"
    assert len(rows) == 1 + len(Pipeline(config).data.splits.classes)
    logged = mlflow.get_run(run.run_id).data
    assert {f"{name}/test/mIoU" for name in ("teacher", "control", "student")} == set(
        logged.metrics
    )
    assert logged.tags["selftrain.student"] == Pipeline(config).student.run_id
    assert Pipeline(config).student.key in mlflow.artifacts.load_text(f"{artifacts}.md")


def test_a_finished_run_keeps_its_exact_identity(config: Config) -> None:
    student = Pipeline(config).student
    identity = json.loads(mlflow.artifacts.load_text(f"runs:/{student.run_id}/identity.json"))
    assert identity["optim.batch_size"] == 4
    assert identity["pseudo_labels"] == Pipeline(config).pseudo_labels.key
    assert not any(name.startswith("machine") for name in identity)


@pytest.mark.parametrize("role", ["student", "control"])
def test_the_logged_config_finds_the_product_again(config: Config, role: str) -> None:
    product: Product = getattr(Pipeline(config), role)
    logged = json.loads(mlflow.artifacts.load_text(f"runs:/{product.run_id}/config.json"))
    assert Pipeline(override(Config(), logged)).student == dataclasses.replace(
        product, is_reused=True
    )


def test_measuring_pseudo_labels_later_makes_nothing_anew(config: Config) -> None:
    silent = override(config, {"pseudo_label.measure": False})
    before, student = Pipeline(silent).pseudo_labels, Pipeline(silent).student
    assert "labels/mIoU" not in mlflow.get_run(before.run_id).data.metrics
    measured = Pipeline(override(config, {"pseudo_label.measure": True}))
    assert measured.pseudo_labels.run_id == before.run_id
    assert measured.student.run_id == student.run_id
    assert "labels/mIoU" in mlflow.get_run(before.run_id).data.metrics


def test_a_model_of_another_scale_is_refused(config: Config) -> None:
    teacher = Pipeline(config).teacher
    other = override(config, {"data.scale": 0.5, "evaluate.model": teacher.run_id})
    with pytest.raises(InputError, match=r"set data\.scale to 1"):
        Pipeline(other).model_to_evaluate()


RATIOS = st.floats(0, 20) | st.integers(0, 7).map(float)
REPEATS = st.floats(0.05, 5) | st.sampled_from([0.25, 0.5, 1.0, 2.0])


@given(repeat=REPEATS, pseudo_ratio=RATIOS, num_real=st.integers(2, 3000))
def test_the_control_sees_as_many_crops_as_the_student(
    repeat: float, pseudo_ratio: float, num_real: int
) -> None:
    student = TrainConfig(data=EpochConfig(repeat=repeat, pseudo_ratio=pseudo_ratio))
    control = control_config(student)
    real, pseudo = count_crops(student, num_real)
    assert count_crops(control, num_real) == (real + pseudo, 0)
    assert abs(real - repeat * num_real) <= 1
    assert abs(pseudo - pseudo_ratio * repeat * num_real) <= 1.5


@given(
    repeat=REPEATS,
    pseudo_ratio=RATIOS,
    num_real=st.integers(50, 3000),
    schedule=st.sampled_from(["constant", "coarse2fine", "fine2coarse_plus"]),
    constant_pixels=st.booleans(),
)
def test_the_control_takes_as_many_steps_as_the_student(
    repeat: float, pseudo_ratio: float, num_real: int, schedule: str, constant_pixels: bool
) -> None:
    values: dict[str, Scalar] = {
        "data.repeat": repeat,
        "data.pseudo_ratio": pseudo_ratio,
        "crop.schedule": schedule,
        "crop.constant_pixels": constant_pixels,
        "epochs": 7,
    }
    student = override(TrainConfig(), values)
    assert plan_epochs(control_config(student), num_real) == plan_epochs(student, num_real)


def test_fine_tuning_goes_on_from_a_run_on_other_classes(config: Config) -> None:
    teacher, student = Pipeline(config).teacher, Pipeline(config).student
    abroad: dict[str, Scalar] = {"data.scenes.style": "abroad", "finetune.optim.lr": 1e-9}
    tuned = {
        name: with_values(config, {**abroad, "finetune.start": start}).finetuned
        for name, start in {"teacher": teacher.run_id, "student": student.run_id}.items()
    }
    assert tuned["teacher"].key != tuned["student"].key
    tags = mlflow.get_run(tuned["student"].run_id).data.tags
    assert tags["selftrain.upstream.start"] == student.run_id
    network, card = load_network(tuned["student"].folder, torch.device("cpu"))
    start, _ = load_network(student.folder, torch.device("cpu"))
    assert len(card.classes) == 27
    # At such a learning rate the weights stay where they started.
    for name, weight in network.named_parameters():
        if name not in network.classifier_names():
            torch.testing.assert_close(weight, start.get_parameter(name))


@pytest.mark.usefixtures("no_work")
def test_a_start_counts_by_what_it_holds(config: Config) -> None:
    """The run of a fine-tuning is found again; so is the teacher it could have been named by."""
    teacher = Pipeline(config).teacher
    values: dict[str, Scalar] = {
        "data.scenes.style": "abroad",
        "finetune.optim.lr": 1e-9,
        "finetune.start": teacher.run_id,
    }
    assert with_values(config, values).finetuned.is_reused


def test_a_start_of_another_architecture_is_refused(config: Config) -> None:
    values: dict[str, Scalar] = {
        "finetune.start": Pipeline(config).teacher.run_id,
        "finetune.network.name": "deeplabv3plus",
        "finetune.network.backbone": "mobilenet_v2",
    }
    with pytest.raises(InputError, match="does not fit the network that is to start from it"):
        _ = with_values(config, values).finetuned


def test_defaults_that_keys_leave_out_change_only_with_the_version_of_their_stage() -> None:
    """A new knob joins the file, with a default that changes nothing of what there was."""
    frozen = json.loads((Path(__file__).parent / "frozen_defaults.json").read_text())
    configs = {TRAIN: TrainConfig(), PSEUDO_LABEL: PseudoLabelConfig(), EVALUATE: EvaluateConfig()}
    now = {f"{stage.name} {stage.version}": flatten(it) for stage, it in configs.items()}
    assert now == frozen


def test_averaged_weights_of_before_the_warm_up_are_not_found_again() -> None:
    averaged = override(TrainConfig(), {"optim.ema": 0.99})
    assert decides_training(averaged) == {"optim.ema": "0.99 warmed up"}
    assert decides_training(TrainConfig()) == {}


def test_fine_tuning_without_a_start_is_refused(config: Config) -> None:
    with pytest.raises(InputError, match=r"finetune\.start is not set: name the run"):
        ACTIONS["finetune"](Pipeline(config), tracking.SILENT)


def test_on_scenes_cbst_keeps_more_of_the_class_that_a_threshold_starves(config: Config) -> None:
    histograms = PseudoLabelSet.open(Pipeline(config).pseudo_labels.folder).histograms()
    predicted = histograms.sum(axis=(0, 2))
    strict = select(histograms, threshold=float(np.quantile(_levels(histograms), 0.5)) / 255)
    shares = strict.kept_pixels / np.maximum(predicted, 1)
    shares[predicted == 0] = np.inf
    starved = int(np.argmin(shares))
    overall = strict.kept_pixels.sum() / predicted.sum()
    by_class = select(histograms, rule="cbst", share=float(overall))
    assert shares[starved] < overall < 1
    assert by_class.kept_pixels[starved] / predicted[starved] >= overall


def _levels(histograms: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the confidences of all pixels, to the beginnings of their bins."""
    return np.repeat(np.array(BIN_STARTS), histograms.sum(axis=(0, 1), dtype=np.int64))


def test_a_damaged_set_of_pseudo_labels_is_fetched_from_its_run_again(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Pipeline(config).pseudo_labels.folder
    (folder / "card.json").unlink()
    again = Pipeline(config).pseudo_labels
    assert again.is_reused
    assert len(PseudoLabelSet.open(again.folder, verify=True)) == 4
    assert "It is fetched from its run." in capsys.readouterr().out


def test_measuring_a_pool_without_labels_is_refused_before_it_is_labelled(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipeline_module, "label_pool", pytest.fail)
    write_picture(tmp_path / "own.png", np.full((32, 64, 3), 7, dtype=np.uint8))
    values: dict[str, Scalar] = {
        "data.pool": "folder",
        "machine.pool_root": tmp_path,
        "pseudo_label.measure": True,
    }
    with pytest.raises(InputError, match="The pool has no labels to measure with"):
        _ = with_values(config, values).pseudo_labels
