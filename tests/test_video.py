"""Videos: of every format that is read, of any length, damaged, and written whole or not at all."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain import video
from selftrain.errors import InputError, Unavailable
from selftrain.video import (
    VIDEOS,
    digest_video,
    is_video,
    open_video,
    read_frames,
    written_video,
)

CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}
WIDTH, HEIGHT, FRAMES, RATE = 64, 48, 40, 12.5


def gray(number: int) -> NDArray[np.uint8]:
    """Return the frame of this number, which it is known by."""
    return np.full((HEIGHT, WIDTH, 3), 6 * number, np.uint8)


def write(path: Path, frames: int = FRAMES, *, noise: bool = False) -> Path:
    rng = np.random.default_rng(0)
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, RATE, (WIDTH, HEIGHT))
    for number in range(frames):
        frame = gray(number)
        writer.write(rng.integers(0, 256, frame.shape, dtype=np.uint8) if noise else frame)
    writer.release()
    return path


@pytest.mark.parametrize("suffix", VIDEOS)
def test_each_format_is_read_frame_by_frame(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"with space ä{suffix}")
    assert is_video(path)
    told: list[int] = []
    found = open_video(path, told.append)
    assert (found.width, found.height, found.frames) == (WIDTH, HEIGHT, FRAMES)
    assert found.rate == pytest.approx(RATE)
    assert sum(told) == FRAMES - 1
    values = [float(frame.mean()) for frame in read_frames(found)]
    np.testing.assert_allclose(values, [6 * number for number in range(FRAMES)], atol=6)


def test_frames_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.mp4"
    with written_video(path, size=(64, 48), rate=5) as append:
        append(np.full((48, 64, 3), (200, 30, 60), np.uint8))
    (frame,) = read_frames(open_video(path))
    np.testing.assert_allclose(frame.mean(axis=(0, 1)), (200, 30, 60), atol=12)


@pytest.mark.parametrize("rate", [1.0, 12.5, 23.976023976, 29.97, 60.0, 240.0])
def test_a_written_video_has_the_size_and_the_rate_that_was_asked_for(
    rate: float, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "out.mp4"
    with written_video(path, size=(WIDTH, HEIGHT), rate=rate) as append:
        for number in range(9):
            append(gray(number))
        assert not path.exists()
    found = open_video(path)
    assert (found.width, found.height, found.frames) == (WIDTH, HEIGHT, 9)
    assert found.rate == pytest.approx(rate, rel=1e-3)
    assert [it.name for it in path.parent.iterdir()] == ["out.mp4"]


def test_an_odd_side_loses_its_last_pixels(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with written_video(path, size=(65, 49), rate=5) as append:
        append(np.full((49, 65, 3), 90, np.uint8))
    found = open_video(path)
    assert (found.width, found.height) == (64, 48)


def test_a_few_frames_that_a_header_names_in_vain_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.mkv", noise=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.98 * len(data))])
    found = open_video(path)
    assert found.missing == FRAMES - found.frames == 1
    assert len(list(read_frames(found))) == found.frames


def test_what_opencv_says_of_a_damaged_video_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "cut.mp4")
    capfd.readouterr()
    path.write_bytes(path.read_bytes()[:900])
    refuse(path, "truncated")
    assert "".join(capfd.readouterr()) == ""


def test_a_block_that_fails_leaves_the_older_video_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", 3)
    before = path.read_bytes()
    with (
        pytest.raises(IndexError),
        written_video(path, size=(WIDTH, HEIGHT), rate=RATE) as append,
    ):
        append(np.array([])[0])
    assert path.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_that_was_not_written_in_full_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(cv2, "cvtColor", lambda frame, code: frame[:-2])  # OpenCV skips it silently
    with (
        pytest.raises(Unavailable, match=r"out\.mp4 was not written in full"),
        written_video(path, size=(WIDTH, HEIGHT), rate=RATE) as append,
    ):
        append(gray(1))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "out.mp4"
    with (
        pytest.raises(Unavailable, match=r"out\.mp4 cannot be written .*free some space"),
        written_video(path, size=(WIDTH, HEIGHT), rate=RATE),
    ):
        pass


def refuse(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list(read_frames(open_video(path)))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_a_truncated_video_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"cut{suffix}", noise=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, "truncated|no frame")


@pytest.mark.parametrize("suffix", VIDEOS)
def test_what_is_no_video_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"one{suffix}"
    path.touch()
    refuse(path, "is empty")
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    refuse(path, "is no video that can be read")
    path.write_bytes(cv2.imencode(".png", gray(9))[1].tobytes())
    refuse(path, "is no video that can be read")
    for start in (b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0AVI ", b"\x1a\x45\xdf\xa3"):
        path.write_bytes(start + np.random.default_rng(0).bytes(4096))
        refuse(path, "is no video that can be read|no frame")


def test_a_list_of_other_files_to_play_is_not_followed(tmp_path: Path) -> None:
    other = write(tmp_path / "secret.mp4")
    for text in (f"#EXTM3U\n#EXTINF:1,\n{other}\n", f"ffconcat version 1.0\nfile '{other}'\n"):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        refuse(path, "is no video that can be read")


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    refuse(write(tmp_path / "none.avi", 0), "is no video|no frame")


def test_a_video_of_enormous_frames_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    refuse(write(tmp_path / "large.mp4"), "64x48 pixels, more than the")


def test_a_video_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    found = open_video(path)
    write(path, 3)
    with pytest.raises(InputError, match="has changed"):
        list(read_frames(found))


def test_a_folder_or_another_file_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "a.png").touch()
    assert not any(is_video(it) for it in tmp_path.iterdir())
    assert not is_video(tmp_path / "nowhere.mp4")


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.mp4"), write(tmp_path / "b.mp4", 5)
    digest = digest_video(first)
    assert len(digest) == 32
    assert digest != digest_video(second)
    first.rename(tmp_path / "c.mp4")
    assert digest_video(tmp_path / "c.mp4") == digest
    with pytest.raises(InputError, match="cannot be read"):
        digest_video(first)
