import copy
import importlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain.data.cityscapes import CLASSES, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX
from selftrain.metrics import ConfusionMatrix
from selftrain.submission import write_submission

HEIGHT, WIDTH = 32, 64
LABEL_IDS = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
VOID_IDS = sorted(set(range(34)).difference(LABEL_IDS))
NOWHERE, ONLY_PREDICTED, NEVER_PREDICTED = 16, 17, 18  # train, motorcycle, bicycle

Prediction = tuple[Sample, NDArray[np.uint8]]


def frame(number: int) -> Sample:
    name = f"berlin_{number:06d}_000019"
    return Sample(name, Path(f"leftImg8bit/test/berlin/{name}_leftImg8bit.png"))


def unpack(data: bytes) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures in a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {
            name: np.asarray(
                cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED),
                dtype=np.uint8,
            )
            for name in archive.namelist()
        }


def official() -> Any:
    """The official evaluation, and a copy of its settings that leaves out instances."""
    module = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = copy.copy(module.args)
    args.evalInstLevelScore = False
    args.JSONOutput = False
    args.quiet = True
    return module, args


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frames in Cityscapes' layout whose labels are random ids, void among them."""
    rng = np.random.default_rng(0)
    absent = [LABEL_IDS[NOWHERE], LABEL_IDS[ONLY_PREDICTED]]
    ids = np.array([i for i in range(34) if i not in absent], dtype=np.uint8)
    for split, cities in {"train": "ab", "val": ["frankfurt", "munster"]}.items():
        for city in cities:
            images = tmp_path / "leftImg8bit" / split / city
            labels = tmp_path / "gtFine" / split / city
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for name in (f"{city}_{i:06d}_000019" for i in range(3)):
                (images / f"{name}_leftImg8bit.png").touch()
                label = rng.choice(ids, (HEIGHT, WIDTH))
                cv2.imwrite(str(labels / f"{name}_gtFine_labelIds.png"), label)
    return tmp_path


def predict_roughly(label: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a map that is right in half of the pixels and names a class in every other."""
    guess = rng.integers(0, 18, label.shape, dtype=np.uint8)
    guess[guess == NOWHERE] = 0
    is_right = (rng.random(label.shape) < 0.5) & (label != IGNORE_INDEX)
    right: NDArray[np.uint8] = np.where(is_right & (label != NEVER_PREDICTED), label, guess)
    return right


def test_our_val_numbers_are_those_of_the_official_evaluation(root: Path, tmp_path: Path) -> None:
    found = splits(root, labelled_fraction=1.0)
    reader, rng = Reader(found.classes), np.random.default_rng(1)
    confusion = ConfusionMatrix(len(found.classes))
    predictions: list[Prediction] = []
    for sample in found.evaluation["val"]:
        label = reader.label(sample)
        predictions.append((sample, predict_roughly(label, rng)))
        confusion.update(label, predictions[-1][1])

    file = tmp_path / "submission.zip"
    write_submission(file, predictions, found.classes, height=HEIGHT, width=WIDTH)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "results")
    module, args = official()
    args.predictionPath = str(tmp_path / "results")
    truth = [str(s.label.path) for s in found.evaluation["val"] if s.label]
    answers = [module.getPrediction(args, path) for path in truth]
    theirs = module.evaluateImgLists(answers, truth, args)

    expected = [theirs["classScores"][name] for name in CLASSES.names]
    np.testing.assert_allclose(confusion.iou(), expected, rtol=0, atol=1e-6)
    assert confusion.miou() == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)
    # The corner cases were met: left out, and counted as 0.
    assert np.isnan(confusion.iou()[NOWHERE])
    assert confusion.iou()[ONLY_PREDICTED] == confusion.iou()[NEVER_PREDICTED] == 0
    assert len(truth) == 6
    assert 0.2 < confusion.miou() < 0.6


def test_a_submission_holds_label_ids_under_the_frames_names(tmp_path: Path) -> None:
    train_ids = np.resize(np.arange(19, dtype=np.uint8), (HEIGHT, WIDTH))
    predictions = [(frame(0), train_ids), (frame(7), np.zeros_like(train_ids))]
    file = tmp_path / "new folder" / "submission.zip"
    count = write_submission(file, predictions, CLASSES, height=HEIGHT, width=WIDTH)
    pictures = unpack(file.read_bytes())
    assert count == 2
    assert list(pictures) == [f"berlin_00000{i}_000019_pred_labelIds.png" for i in (0, 7)]
    first, second = pictures.values()
    assert (first == np.resize(np.array(LABEL_IDS), (HEIGHT, WIDTH))).all()
    assert first.dtype == np.uint8
    assert (second == 7).all()


@pytest.mark.parametrize("size", [(512, 1024), (341, 683), (1024, 2048)])
def test_a_map_of_a_scaled_frame_is_written_at_full_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    small = np.zeros(size, np.uint8)
    small[:, size[1] // 2 :] = 18
    file = tmp_path / "submission.zip"
    write_submission(file, [(frame(0), small)], CLASSES)
    (picture,) = unpack(file.read_bytes()).values()
    assert picture.shape == (1024, 2048)
    assert set(np.unique(picture)) == {7, 33}  # no id between them was invented
    assert abs((picture == 33).mean() - 0.5) < 0.002


def test_equal_predictions_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        maps = [(frame(i), np.full((HEIGHT, WIDTH), i, np.uint8)) for i in range(3)]
        write_submission(tmp_path / name, maps, CLASSES, height=HEIGHT, width=WIDTH)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nothing_is_written_when_predicting_fails(tmp_path: Path) -> None:
    def predictions() -> Iterator[Prediction]:
        yield frame(0), np.zeros((HEIGHT, WIDTH), np.uint8)
        raise InputError("the second image is damaged")

    with pytest.raises(InputError, match="the second image"):
        write_submission(tmp_path / "s.zip", predictions(), CLASSES, height=HEIGHT, width=WIDTH)
    assert list(tmp_path.iterdir()) == []


def test_no_test_frames_are_no_submission(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no test frames.*leftImg8bit_trainvaltest\.zip"):
        write_submission(tmp_path / "s.zip", [], CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["scene_1", "test/berlin_000000_000019", "berlin_000_000019"])
def test_a_picture_that_is_no_cityscapes_frame_is_named(tmp_path: Path, name: str) -> None:
    sample = Sample(name, Path("somewhere") / "it.png")
    with pytest.raises(InputError, match=r"somewhere/it\.png is not named as a Cityscapes frame"):
        write_submission(tmp_path / "s.zip", [(sample, np.zeros((4, 8), np.uint8))], CLASSES)


def test_a_frame_predicted_twice_is_named(tmp_path: Path) -> None:
    same = (frame(3), np.zeros((4, 8), np.uint8))
    with pytest.raises(InputError, match=r"berlin_000003_000019 would be submitted twice"):
        write_submission(tmp_path / "s.zip", [same, same], CLASSES)


def test_a_cropped_prediction_is_refused(tmp_path: Path) -> None:
    cropped = np.zeros((800, 800), np.uint8)
    with pytest.raises(InputError, match=r"berlin_000003.* is 800x800.*2048x1024: predict the wh"):
        write_submission(tmp_path / "s.zip", [(frame(3), cropped)], CLASSES)


def test_classes_without_label_ids_are_refused(tmp_path: Path) -> None:
    classes = ClassTable(("road", "car"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(InputError, match=r"road, car have no Cityscapes label ids.*: predict with"):
        write_submission(tmp_path / "s.zip", [(frame(0), np.zeros((4, 8), np.uint8))], classes)


def test_void_is_never_submitted() -> None:
    assert set(LABEL_IDS).isdisjoint(VOID_IDS)
    assert all(CLASSES.train_ids[i] == IGNORE_INDEX for i in VOID_IDS)
