"""Anybody's pictures: of any size, kind and name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from miniature import random_network, truncate, write_picture
from numpy.typing import NDArray
from PIL import Image

from selftrain.checkpoint import load_network
from selftrain.config import InferenceConfig, MachineConfig, PredictConfig
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.inference import Predictor
from selftrain.pictures import overlay
from selftrain.predict import LEGEND, SHEET, list_pictures, predict, predict_video
from selftrain.video import open_video, read_frames, written_video

CLASSES = ClassTable(("road", "car", "bus"), ((1, 2, 3), (40, 50, 60), (70, 80, 90)))
MACHINE = MachineConfig(device="cpu", workers=0)
RNG = np.random.default_rng(0)
PICTURES: dict[str, NDArray[np.uint8] | NDArray[np.uint16]] = {
    "plain.png": RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8),
    "gray.png": RNG.integers(0, 256, (33, 50), dtype=np.uint8),
    "transparent.png": RNG.integers(0, 256, (64, 32, 4), dtype=np.uint8),
    "deep.png": RNG.integers(0, 65536, (40, 48, 3), dtype=np.uint16),
    "small.png": RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8),
    "with space/straße ä.JPG": RNG.integers(0, 256, (41, 47, 3), dtype=np.uint8),
    "with space/nested/a.b.webp": RNG.integers(0, 256, (35, 36, 3), dtype=np.uint8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, picture in PICTURES.items():
        path = tmp_path / "pictures" / name
        lower = path.with_suffix(path.suffix.lower())
        write_picture(lower, picture)
        lower.rename(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return random_network(tmp_path / "model", CLASSES)


def run(folder: Path, model: Path, output: Path, scales: str = "1") -> Path:
    config = PredictConfig(images=folder, output=output, inference=InferenceConfig(scales=scales))
    predict(config, list_pictures(folder), model, MACHINE)
    return output


def read(path: Path) -> NDArray[np.uint8]:
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return np.asarray(found, dtype=np.uint8)


def test_every_picture_gets_a_mask_colours_and_an_overlay_of_its_size(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    output = run(folder, model, tmp_path / "out")
    for name, picture in PICTURES.items():
        stem = name.rpartition(".")[0]
        mask = read(output / "masks" / f"{stem}.png")
        assert mask.shape == picture.shape[:2]
        assert mask.max() < len(CLASSES)
        colors = read(output / "colors" / f"{stem}.png")[..., ::-1]
        np.testing.assert_array_equal(colors, np.array(CLASSES.colors, np.uint8)[mask])
        assert read(output / "overlays" / f"{stem}.jpg").shape == (*picture.shape[:2], 3)
    assert len(list(output.rglob("*.*"))) == 3 * len(PICTURES) + 2  # a legend, a contact sheet


def test_the_mask_is_the_networks_answer(folder: Path, model: Path, tmp_path: Path) -> None:
    output = run(folder, model, tmp_path / "out")
    network, _ = load_network(model, torch.device("cpu"))
    rgb = np.ascontiguousarray(PICTURES["plain.png"][..., ::-1])
    labels, _ = Predictor(network, torch.device("cpu")).labels(
        torch.from_numpy(rgb).permute(2, 0, 1)[None]
    )
    np.testing.assert_array_equal(read(output / "masks" / "plain.png"), labels[0].numpy())


def test_a_network_of_half_sized_frames_sees_half_sized_pictures(
    folder: Path, tmp_path: Path
) -> None:
    whole = random_network(tmp_path / "whole", CLASSES)
    half = random_network(tmp_path / "half", CLASSES, scale=0.5)
    first = run(folder, whole, tmp_path / "a", scales="0.5")
    second = run(folder, half, tmp_path / "b", scales="1")
    mask = "masks/transparent.png"
    assert (first / mask).read_bytes() == (second / mask).read_bytes()


def test_a_folder_of_that_suffix_is_no_picture(folder: Path) -> None:
    (folder / "folder.png").mkdir()
    assert len(list_pictures(folder)) == len(PICTURES)


def test_pictures_that_would_write_the_same_mask_are_named(folder: Path) -> None:
    write_picture(folder / "plain.jpg", PICTURES["plain.png"])
    with pytest.raises(InputError, match=r"plain\.jpg and plain\.png, which would have the same"):
        list_pictures(folder)


def test_an_output_that_is_a_file_is_named(folder: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"out/.* cannot be written"):
        run(folder, model, tmp_path / "out")


def test_a_photo_is_labelled_upright(model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "phone.jpg"
    write_picture(photo, PICTURES["plain.png"])
    upright = np.asarray(Image.open(photo)).copy()
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned: 40x48 is to be shown as 48x40
    Image.open(photo).save(photo, exif=tag, quality=100)
    expected = np.rot90(np.asarray(Image.open(photo)), -1)
    assert expected.shape != upright.shape

    output = run(photo.parent, model, tmp_path / "out")

    mask = read(output / "masks" / "phone.png")
    assert mask.shape == (48, 40)
    assert read(output / "overlays" / "phone.jpg").shape == (48, 40, 3)
    network, _ = load_network(model, torch.device("cpu"))
    image = torch.from_numpy(np.ascontiguousarray(expected)).permute(2, 0, 1)[None]
    labels, _ = Predictor(network, torch.device("cpu")).labels(image)
    assert np.mean(mask == labels[0].numpy()) > 0.99  # two decoders may round differently


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_written_before_all_pictures_are_known_to_be_readable(
    workers: int, folder: Path, model: Path, tmp_path: Path
) -> None:
    truncate(folder / "with space" / "straße ä.JPG")  # not the first by name
    samples = list_pictures(folder)
    config = PredictConfig(images=folder, output=tmp_path / "out")
    with pytest.raises(InputError, match=r"straße ä\.JPG is truncated"):
        predict(config, samples, model, MachineConfig(device="cpu", workers=workers))
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_or_holds_the_pictures_is_refused(folder: Path) -> None:
    for output in (folder, folder / "nowhere" / "..", folder.parent):
        with pytest.raises(InputError, match=r"predict\.output = .* is predict\.images = "):
            list_pictures(folder, leave_out=output)


def test_the_masks_of_an_earlier_call_are_no_pictures(folder: Path, model: Path) -> None:
    masks = folder / "predictions"
    run(folder, model, masks)
    again = list_pictures(folder, leave_out=masks)
    assert {sample.name for sample in again} == {str(Path(n).with_suffix("")) for n in PICTURES}


def test_a_folder_gets_a_legend_and_a_contact_sheet(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    output = run(folder, model, tmp_path / "out")
    assert read(output / LEGEND).std() > 1
    sheet = read(output / SHEET)
    assert min(sheet.shape[:2]) > 200
    # Every class's colour of the legend is on the sheet, which has the legend below.
    for color in CLASSES.colors:
        near = np.abs(sheet[..., ::-1].astype(int) - np.array(color)).max(axis=2) < 12
        assert near.sum() > 20


def test_a_contact_sheet_of_many_pictures_shows_some(model: Path, tmp_path: Path) -> None:
    for number in range(30):
        write_picture(tmp_path / f"many/{number:02d}.png", PICTURES["small.png"])
    output = run(tmp_path / "many", model, tmp_path / "out")
    assert len(list((output / "overlays").glob("*.jpg"))) == 30
    few = tmp_path / "few"
    for number in range(24):
        write_picture(few / f"{number:02d}.png", PICTURES["small.png"])
    assert read(output / SHEET).shape == read(run(few, model, tmp_path / "out2") / SHEET).shape


def test_a_single_picture_is_labelled_as_in_its_folder(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    whole = run(folder, model, tmp_path / "whole")
    output = run(folder / "plain.png", model, tmp_path / "single")
    written = {str(it.relative_to(output)) for it in output.rglob("*.*")}
    assert written == {"masks/plain.png", "colors/plain.png", "overlays/plain.jpg", LEGEND}
    for name in written:
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_what_is_neither_folder_nor_picture_nor_video_is_named(folder: Path) -> None:
    for place in (folder / "nowhere", folder / "notes.txt", folder / "nowhere.mp4"):
        with pytest.raises(InputError, match=r"is no folder, no picture .* and no video"):
            list_pictures(place)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of 7 frames of noise, 64x48."""
    path = tmp_path / "videos" / "a clip.mp4"
    with written_video(path, size=(64, 48), rate=12.5) as append:
        for _ in range(7):
            append(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return path


def run_video(clip: Path, model: Path, output: Path, *, masks: bool = False) -> Path:
    config = PredictConfig(images=clip, output=output, video_masks=masks)
    assert predict_video(config, model, MACHINE) == 7
    return output


def test_a_video_gets_a_video_of_overlays_of_its_size_and_rate(
    clip: Path, model: Path, tmp_path: Path
) -> None:
    output = run_video(clip, model, tmp_path / "out")
    written = {str(it.relative_to(output)) for it in output.rglob("*.*")}
    assert written == {"overlays/a clip.mp4", LEGEND}
    before, after = open_video(clip), open_video(output / "overlays" / "a clip.mp4")
    assert (after.width, after.height, after.frames) == (64, 48, 7)
    assert after.rate == pytest.approx(before.rate)


def test_each_frame_of_a_video_is_labelled_as_a_picture(
    clip: Path, model: Path, tmp_path: Path
) -> None:
    output = run_video(clip, model, tmp_path / "out", masks=True)
    network, _ = load_network(model, torch.device("cpu"))
    predictor = Predictor(network, torch.device("cpu"))
    drawn = read_frames(open_video(output / "overlays" / "a clip.mp4"))
    for number, (frame, shown) in enumerate(zip(read_frames(open_video(clip)), drawn, strict=True)):
        labels = predictor.label_picture(frame)
        mask = read(output / "masks" / "a clip" / f"{number:06d}.png")
        np.testing.assert_array_equal(mask, labels)
        expected = overlay(frame, labels, CLASSES.colors)
        assert abs(float(shown.mean()) - float(expected.mean())) < 6  # the codec loses some


def test_a_truncated_video_writes_nothing(clip: Path, model: Path, tmp_path: Path) -> None:
    truncate(clip)
    with pytest.raises(InputError, match=r"a clip\.mp4 is no video that can be read, or a damaged"):
        run_video(clip, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_earlier_call_has_written_is_not_written_over_while_it_is_read(
    clip: Path, model: Path, folder: Path, tmp_path: Path
) -> None:
    output = run_video(clip, model, tmp_path / "out")
    run(folder / "plain.png", model, output)
    with pytest.raises(InputError, match=r"lies in .*overlays, where the output goes"):
        run_video(output / "overlays" / "a clip.mp4", model, output)
    with pytest.raises(InputError, match=r"lies in .*overlays, where the output goes"):
        list_pictures(output / "overlays" / "plain.jpg", leave_out=output)
