"""What a set of pseudo labels says of itself, wherever it is stored."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from label_sets import CARD, CLASSES, FORM, labelled_images, write_one, write_set
from PIL import Image

from selftrain import tracking
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.quarter import enlarge, shrink
from selftrain.data.shards import LabelledImage, finish
from selftrain.errors import InputError
from selftrain.inspect_pseudo_labels import describe, draw, open_set
from selftrain.stage import PRODUCT


@pytest.fixture
def items(tmp_path: Path) -> list[LabelledImage]:
    return labelled_images(tmp_path / "images")


@pytest.fixture
def labels(tmp_path: Path, items: list[LabelledImage]) -> PseudoLabelSet:
    return PseudoLabelSet.open(write_set(tmp_path / "set", items))


def edit_card(folder: Path, **facts: object) -> PseudoLabelSet:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **facts}))
    return PseudoLabelSet.open(folder)


def rows(text: str) -> dict[str, list[str]]:
    """Return the class table of a description: class -> values."""
    table = text.split("\n\n")[1].splitlines()[1:]
    return {line.split()[0]: line.split()[1:] for line in table}


def test_a_description_has_the_card_and_the_counts(labels: PseudoLabelSet) -> None:
    text = describe(labels)
    assert re.search(r"^images +5 in 2 shards, 0\.0 MiB$", text, re.MULTILINE)
    assert re.search(r"^teacher +train-0123$", text, re.MULTILINE)
    assert "agree" not in text


def test_each_class_has_its_share_and_confidence(
    labels: PseudoLabelSet, items: list[LabelledImage]
) -> None:
    label, confidence = (
        np.concatenate([getattr(item, kind).ravel() for item in items])
        for kind in ("label", "confidence")
    )
    found = rows(describe(labels))
    for class_id, name in enumerate(CLASSES.names):
        share, mean, sure = map(float, found[name])
        levels = confidence[label == class_id] / 255
        assert share == pytest.approx(100 * (label == class_id).mean(), abs=0.006)
        assert mean == pytest.approx(levels.mean(), abs=0.01)  # bins are up to 8 levels wide
        assert sure == pytest.approx(100 * (levels >= 0.9).mean(), abs=0.006)
    assert float(found["ignored"][0]) == pytest.approx(100 * (label == 255).mean(), abs=0.006)


def test_agreement_is_shown_where_it_was_measured(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    judged = [
        replace(item, agreement=0.5 + i / 10, agreed=item.label == 1)
        for i, item in enumerate(items)
    ]
    text = describe(PseudoLabelSet.open(write_set(tmp_path / "set", judged)))
    assert re.search(r"^agreement +mean IoU 0\.700, lowest 0\.500$", text, re.MULTILINE)
    assert [rows(text)[name][-1] for name in CLASSES.names] == ["0.00", "100.00", "0.00"]


def test_a_description_fits_eighty_columns(tmp_path: Path, items: list[LabelledImage]) -> None:
    judged = [replace(item, agreement=0.5, agreed=item.label == 1) for item in items]
    folder = write_set(tmp_path / "set", judged)
    long = [f"object--support--a-very-long-name-of-a-class-{i}" for i in range(3)]
    facts = {"teachers": [f"train-{i:016x}" for i in range(5)], "inference": {"scales": "0.5,1"}}
    text = describe(edit_card(folder, classes=long, **facts))
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"class-{i} " in text for i in range(3))
    assert "train-0000000000000004" in text
    assert "scales 0.5,1" in text


def test_a_class_that_was_never_predicted_has_no_confidence(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    write_one(tmp_path / "set", 0, items[:1])
    finish(tmp_path / "set", num_shards=1, card=CARD)
    assert rows(describe(PseudoLabelSet.open(tmp_path / "set")))["bus"] == ["-", "-", "-"]


def test_a_set_without_images_is_described(tmp_path: Path) -> None:
    write_one(tmp_path, 0, [])
    finish(tmp_path, num_shards=1, card=CARD)
    assert "0 in 1 shards" in describe(PseudoLabelSet.open(tmp_path))


def test_a_label_is_drawn_as_its_ids_in_the_classes_colours(
    labels: PseudoLabelSet, items: list[LabelledImage], tmp_path: Path
) -> None:
    paths = draw(labels, "drive/1", None, tmp_path / "out")
    assert paths == [tmp_path / f"out/drive/1.{kind}.png" for kind in ("label", "confidence")]
    with Image.open(paths[0]) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), items[1].label)
        colors = np.asarray(picture.convert("RGB"))
    for class_id, color in enumerate(CLASSES.colors):
        assert (colors[items[1].label == class_id] == color).all()
    assert (colors[items[1].label == 255] == 0).all()
    confidence = cv2.imread(str(paths[1]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(confidence, items[1].confidence)


def test_the_label_lies_over_the_image_where_that_is_at_hand(
    labels: PseudoLabelSet, items: list[LabelledImage], tmp_path: Path
) -> None:
    image = items[1].sample.image
    *_, path = draw(labels, "drive/1", image, tmp_path / "out")
    assert path.name == "1.overlay.png"
    drawn, plain = cv2.imread(str(path)), cv2.imread(str(image))
    assert drawn is not None
    assert plain is not None
    ignored = items[1].label == 255
    np.testing.assert_array_equal(drawn[ignored], plain[ignored])
    expected = (plain[..., ::-1].astype(float) + np.array(CLASSES.colors)[items[1].label % 3]) / 2
    assert np.abs(drawn[..., ::-1] - expected)[~ignored].max() <= 0.5


def test_a_frame_that_was_labelled_smaller_is_drawn_so(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    half = [
        replace(item, label=item.label[::2, ::2].copy(), confidence=item.confidence[::2, ::2])
        for item in items[::2]
    ]
    write_one(tmp_path / "set", 0, half)
    finish(tmp_path / "set", num_shards=1, card={**CARD, "scale": 0.5})
    labels = PseudoLabelSet.open(tmp_path / "set")
    *_, path = draw(labels, "drive/2", items[2].sample.image, tmp_path / "out")
    drawn = cv2.imread(str(path))
    assert drawn is not None
    assert drawn.shape[:2] == half[1].label.shape


def test_a_quarter_of_the_confidence_is_drawn_at_the_labels_size(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    folder = write_set(tmp_path / "set", items, replace(FORM, confidence="quarter"))
    path = draw(PseudoLabelSet.open(folder), "drive/1", None, tmp_path / "out")[1]
    np.testing.assert_array_equal(
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED),
        enlarge(shrink(items[1].confidence), items[1].label.shape),
    )


def test_an_image_that_is_not_in_the_set_is_named_with_one_that_is(
    labels: PseudoLabelSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no image drive/44 among its 5: .*such as drive/4, "):
        draw(labels, "drive/44", None, tmp_path / "out")


def test_another_picture_is_refused(
    labels: PseudoLabelSet, items: list[LabelledImage], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"image0\.png is not the picture that was labelled as"):
        draw(labels, "drive/1", items[0].sample.image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_without_colours_is_named(labels: PseudoLabelSet, tmp_path: Path) -> None:
    plain = edit_card(labels.folder, colors=None)
    describe(plain)
    with pytest.raises(
        InputError, match="does not list a colour for each of its 3 classes: delete"
    ):
        draw(plain, "drive/1", None, tmp_path / "out")


def test_a_name_that_leads_out_of_the_output_is_refused(
    labels: PseudoLabelSet, tmp_path: Path
) -> None:
    """A set's writer refuses such a name; a set may come from anywhere."""
    stray = replace(labels, rows={"../drive": 0})
    with pytest.raises(
        InputError, match=r"The name \.\./drive leads out of .*: the set is damaged"
    ):
        draw(stray, "../drive", None, tmp_path / "out")


def test_the_shard_of_the_image_is_compared_with_its_digest_and_others_on_demand(
    labels: PseudoLabelSet, tmp_path: Path
) -> None:
    shard = labels.folder / "shard-00001.zip"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    opened = open_set(labels.folder, tmp_path, image="drive/1")  # in the other shard
    assert describe(opened) == describe(labels)
    for how in ({"image": "drive/4"}, {"verify": True}):
        with pytest.raises(InputError, match=r"shard-00001\.zip .*its digest is another"):
            open_set(labels.folder, tmp_path, **how)


def scratch(folder: Path) -> Path:
    folder.mkdir()
    return folder


def files(labels: PseudoLabelSet) -> set[str]:
    """Return the files of a set that are there, but for the rows of single shards."""
    return {it.name for it in labels.folder.iterdir() if not it.match("shard-*.parquet")}


@pytest.mark.usefixtures("store")
def test_a_set_opens_as_it_comes_from_the_artifact_store(
    labels: PseudoLabelSet, items: list[LabelledImage], tmp_path: Path
) -> None:
    tracking.connect()
    with tracking.stage_run("pseudo_label", "pseudo labels", "key") as run:
        run.log_files(labels.folder, PRODUCT)
    before = describe(labels)
    shutil.rmtree(labels.folder)
    uri = f"runs:/{run.run_id}/{PRODUCT}"
    found = open_set(uri, scratch(tmp_path / "whole"), verify=True)
    assert files(found) == {"card.json", "manifest.parquet", *map(str, found.card["shards"])}
    found = open_set(uri, scratch(tmp_path / "card"))
    assert files(found) == {"card.json", "manifest.parquet"}
    assert describe(found).splitlines()[1:] == before.splitlines()[1:]
    found = open_set(uri, scratch(tmp_path / "one"), image="drive/4")
    assert files(found) == {"card.json", "manifest.parquet", "shard-00001.zip"}
    assert describe(found).splitlines()[1:] == before.splitlines()[1:]
    path, *_ = draw(found, "drive/4", None, tmp_path / "out")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), items[4].label)
