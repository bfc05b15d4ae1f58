"""From what a run was made: the chain as text, as Markdown, as a figure, and as a command."""

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import OwnStore
from miniature import flags
from PIL import Image
from stage_runs import finished_run, key_of

from selftrain import __main__ as command
from selftrain import tracking
from selftrain.config import Config, LineageConfig
from selftrain.errors import InputError, Unavailable
from selftrain.lineage import Made, describe, describe_in_markdown, each, trace
from selftrain.lineage_figure import draw, encode
from selftrain.lineage_record import note_lineage, show_lineage
from selftrain.pipeline import Pipeline

REAL = {"real": ("a" * 16, 4), "dev": ("b" * 16, 2)}


@pytest.fixture(scope="module")
def chain(
    own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Runs of two rounds, several teachers, fine-tuning and borrowed backbones, by their names."""
    with own_store(tmp_path_factory.mktemp("chain")):
        tracking.connect()
        runs: dict[str, str] = {}

        def add(name: str, role: str, *, stage: str = "train", **upstream: str) -> None:
            named = {k: "+".join(runs[it] for it in v.split("+")) for k, v in upstream.items()}
            is_training = stage == "train"
            runs[name] = finished_run(
                role,
                stage=stage,
                key=key_of(name),
                upstream=named,
                data=REAL if is_training else {"pool": ("c" * 16, 8)},
                metrics={"dev/mIoU": 0.25} if is_training else {"labels/mIoU": 0.5},
                params={"student.seed": 7, "data.scenes.seed": 3} if is_training else {},
            )

        add("teacher", "teacher")
        add("labels", "pseudo labels", stage="pseudo_label", teacher="teacher")
        add("student", "student", pseudo_labels="labels")
        add("labels 2", "pseudo labels of round 2", stage="pseudo_label", teacher="student")
        add("student 2", "student of round 2", pseudo_labels="labels 2")
        add("labels of two", "pseudo labels", stage="pseudo_label", teacher="teacher+student")
        add("student of two", "student", pseudo_labels="labels of two")
        add("finetuned", "finetune", start="student")
        add("borrower", "teacher", backbone_weights="teacher")
        add("own start", "student", pseudo_labels="labels", start="teacher")
        add("orphan", "student", pseudo_labels="labels of two")
        yield runs


def stations(made: Made) -> list[str]:
    return [station.run_id for station in each(made)]


def test_a_student_leads_to_its_labels_its_teacher_and_the_digests_of_the_data(
    chain: dict[str, str],
) -> None:
    text = describe(trace(chain["student"]))
    lines = text.splitlines()
    assert lines[0] == f"student {key_of('student')}  run {chain['student']}"
    assert re.fullmatch(
        r"│  \d{4}-\d\d-\d\d \d\d:\d\d UTC, commit \S+( \S+)?, seed 7, dev mIoU 25\.00", lines[1]
    )
    assert lines[2] == f"│  real: 4 images, digest {'a' * 16}"
    assert lines[4] == f"└─ trained on pseudo labels {key_of('labels')}  run {chain['labels']}"
    assert lines[5].endswith("mIoU of the labels 50.00")
    assert lines[6] == f"   │  pool: 8 images, digest {'c' * 16}"
    assert lines[7] == f"   └─ labelled by teacher {key_of('teacher')}  run {chain['teacher']}"
    assert lines[-1].strip() == f"dev: 2 images, digest {'b' * 16}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("student 2", ["student 2", "labels 2", "student", "labels", "teacher"]),
        ("student of two", ["student of two", "labels of two", "teacher", "student", "labels"]),
        ("finetuned", ["finetuned", "student", "labels", "teacher"]),
        ("borrower", ["borrower", "teacher"]),
        ("own start", ["own start", "labels", "teacher"]),
        ("labels", ["labels", "teacher"]),
    ],
)
def test_every_kind_of_chain_is_followed_to_its_beginning(
    name: str, expected: list[str], chain: dict[str, str]
) -> None:
    made = trace(chain[name])
    assert stations(made) == [chain[it] for it in expected]
    text = describe(made)
    assert all(chain[it] in text for it in expected)
    assert len(text.splitlines()) == len(set(text.splitlines())) or name == "student of two"


def test_a_run_that_stands_twice_in_a_chain_is_described_once(chain: dict[str, str]) -> None:
    text = describe(trace(chain["own start"]))
    assert text.count(chain["teacher"]) == 2
    assert f"went on from teacher {key_of('teacher')}  run {chain['teacher']}: see above" in text
    assert text.count("a" * 16) == 2  # the student's own and the teacher's


def test_a_source_that_is_gone_is_shown_as_gone(chain: dict[str, str]) -> None:
    run_id = finished_run("student", key=key_of("x"), upstream={"pseudo_labels": "0" * 32})
    made = trace(run_id)
    assert f"trained on pseudo labels (gone)  run {'0' * 32}: this store does not" in describe(made)
    assert "0" * 32 in describe_in_markdown(made)
    assert encode(draw(made), "png")


def test_a_run_that_names_itself_as_its_source_ends(chain: dict[str, str]) -> None:
    first = finished_run("student", key=key_of("loop"))
    second = finished_run("student", key=key_of("loop 2"), upstream={"start": first})
    tracking.Run(first).set_tags({f"{tracking.UPSTREAM}start": second})
    assert set(stations(trace(first))) == {first, second}
    assert encode(draw(trace(first)), "png")


def test_in_markdown_every_run_is_a_link_to_it(chain: dict[str, str]) -> None:
    text = describe_in_markdown(trace(chain["student"]))
    experiment = mlflow.get_run(chain["teacher"]).info.experiment_id
    for name, depth in {"labels": 0, "teacher": 1}.items():
        link = f"](#/experiments/{experiment}/runs/{chain[name]})"
        (line,) = (line for line in text.splitlines() if link in line)
        assert line.startswith("    " * depth + "- ")
    assert f"- real: 4 images, digest `{'a' * 16}`" in text.splitlines()


def test_the_figure_shows_each_run_and_each_digest_and_equal_data_by_equal_letters(
    chain: dict[str, str], tmp_path: Path
) -> None:
    figure = draw(trace(chain["student 2"]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    for name in ("student 2", "labels 2", "student", "labels", "teacher"):
        assert chain[name] in texts
    # Three trainings have read the same two data sets, two labellings the same pool.
    assert [texts.count(letter) for letter in "ABC"] == [3, 3, 2]
    inks = {"teacher": "labels the pool", "pseudo_labels": "are learned"}
    assert [texts.count(word) for word in inks.values()] == [2, 2]


@pytest.mark.parametrize("name", ["student 2", "student of two", "own start", "teacher"])
def test_no_text_of_the_figure_leaves_its_box_or_lies_on_another(
    name: str, chain: dict[str, str]
) -> None:
    figure = draw(trace(chain[name]))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's
    axes = figure.axes[0]
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
    width, height = figure.bbox.width, figure.bbox.height
    for text in axes.texts:
        if not text.get_text():
            continue
        place = text.get_window_extent(renderer)
        assert place.x0 >= 0
        assert place.x1 <= width
        assert place.y0 >= 0
        assert place.y1 <= height
        around = [box for box in boxes if box.overlaps(place)]
        assert len(around) <= 1, text.get_text()
        if around:
            assert place.x0 >= around[0].x0
            assert place.x1 <= around[0].x1, text.get_text()


def test_the_chain_is_noted_in_the_run_of_who_has_one(chain: dict[str, str]) -> None:
    note_lineage(chain["student"])
    note_lineage(chain["teacher"])
    student, teacher = (mlflow.get_run(chain[name]) for name in ("student", "teacher"))
    assert f"runs/{chain['labels']})" in student.data.tags[tracking.DESCRIPTION_TAG]
    assert tracking.DESCRIPTION_TAG not in teacher.data.tags
    files = mlflow.MlflowClient().list_artifacts(chain["student"], "lineage")
    assert [Path(it.path).name for it in files] == ["lineage.png", "lineage.txt"]


def test_the_chain_leaves_the_rest_of_a_description_as_it_was(chain: dict[str, str]) -> None:
    run = tracking.Run(chain["student"])
    run.set_tags({tracking.DESCRIPTION_TAG: "A student.\n\n**Data:** some.\n\nEvery knob."})
    note_lineage(chain["student"])
    first, _, line, _, *rest = (
        mlflow.get_run(chain["student"]).data.tags[tracking.DESCRIPTION_TAG].split("\n")
    )
    assert first == "A student."
    assert line.startswith("**Chain:** student")
    assert rest == ["**Data:** some.", "", "Every knob."]


@pytest.mark.parametrize("form", ["{}", "runs:/{}"])
def test_a_run_is_named_as_everywhere(
    form: str, chain: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    show_lineage(LineageConfig(run=form.format(chain["student"])))
    assert capsys.readouterr().out.startswith(f"student {key_of('student')}")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_the_figure_is_written_in_the_format_that_its_name_ends_in(
    suffix: str, chain: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "deep" / f"chain.{suffix}"
    show_lineage(LineageConfig(run=chain["student"], output=str(path)))
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(start)
    if suffix == "png":
        assert Image.open(path).width > 500


def unfinished() -> str:
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("train", "teacher", "k") as run:
        raise KeyboardInterrupt
    return run.run_id


def of_no_stage() -> str:
    with tracking.parent_run("student") as run:
        run.set_tags({tracking.PRODUCT_TAG: "the product"})
    return run.run_id


def deleted() -> str:
    run_id = finished_run("teacher", key=key_of("deleted"))
    mlflow.delete_run(run_id)
    return run_id


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (lambda: "0" * 32, "There is no run 0+ in sqlite"),
        (lambda: "models:/nothing@champion", "There is no run models:/nothing@champion"),
        (unfinished, "is KILLED, not FINISHED"),
        (of_no_stage, "not a stage of selftrain: .* what its command has made is run the product"),
        (deleted, "is deleted: restore it by `mlflow runs restore --run-id"),
        (lambda: "none", r"lineage\.run is not set: name a run"),
    ],
)
def test_a_run_without_a_chain_is_said_in_one_sentence(
    named: object, sentence: str, chain: dict[str, str]
) -> None:
    name = named()  # type: ignore[operator]  # a function of the table above
    with pytest.raises(InputError, match=sentence) as caught:
        show_lineage(LineageConfig(run=name))
    assert len(str(caught.value).splitlines()) == 1


def test_a_figure_in_a_format_that_is_none_is_refused_before_anything_is_asked(
    chain: dict[str, str],
) -> None:
    with pytest.raises(InputError, match=r"output = chain\.txt names no picture: end it in \.png"):
        show_lineage(LineageConfig(run="0" * 32, output="chain.txt"))


def test_a_store_that_is_away_is_not_taken_for_a_source_that_is_gone(
    chain: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    finished = tracking.finished

    def once(name: str) -> tracking.Finished:
        asked.append(name)
        if len(asked) > 1:
            raise Unavailable("The tracking store does not answer.")
        return finished(name)

    monkeypatch.setattr(tracking, "finished", once)
    with pytest.raises(Unavailable):
        trace(chain["student"])


def test_the_command_shows_the_chain_of_a_trained_student_and_leaves_no_run(
    store: str, tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.connect()
    student = Pipeline(tiny).student
    before = len(mlflow.search_runs(search_all_experiments=True))
    words = flags({"machine.outputs": tmp_path / "outputs", "lineage.output": tmp_path / "c.png"})
    capsys.readouterr()
    command.run(["lineage", student.run_id, *words])
    said = capsys.readouterr().out
    pipeline = Pipeline(tiny)
    for product in (student, pipeline.pseudo_labels, pipeline.teacher):
        assert product.key in said
        assert product.run_id in said
    for digest in (pipeline.data.labelled_digest, pipeline.data.pool_digest):
        assert digest in said
    assert f"written: {tmp_path / 'c.png'}" in said
    assert Image.open(tmp_path / "c.png").height > 300
    assert len(mlflow.search_runs(search_all_experiments=True)) == before
    assert tracking.DESCRIPTION_TAG in mlflow.get_run(student.run_id).data.tags
