"""What a data set holds, as one short word; and how it is not computed twice."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from selftrain.data import digests
from selftrain.data.digests import FileDigests, digest_file, digest_samples
from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Two files; a digest does not care whether they are pictures."""
    (tmp_path / "image.png").write_bytes(b"image")
    (tmp_path / "label.png").write_bytes(b"label")
    return Sample("image", tmp_path / "image.png", Blob(tmp_path / "label.png"))


@pytest.fixture
def known(tmp_path: Path) -> FileDigests:
    return FileDigests(tmp_path / "cache" / "digests.sqlite")


def move(sample: Sample, folder: Path) -> Sample:
    assert sample.label is not None
    folder.mkdir()
    image = Path(shutil.copy(sample.image, folder / "other.png"))
    label = Path(shutil.copy(sample.label.path, folder / "other-label.png"))
    return replace(sample, image=image, label=Blob(label))


def test_the_digest_depends_on_content_and_name_and_not_on_place_or_order(
    sample: Sample, tmp_path: Path
) -> None:
    other = replace(move(sample, tmp_path / "b"), name="other")
    digest = digest_samples([sample, other], labels=True)
    moved = move(sample, tmp_path / "c")
    assert digest_samples([other, moved], labels=True) == digest
    assert digest_samples([other, replace(moved, name="new")], labels=True) != digest


def test_the_digest_changes_with_an_image_and_with_a_label(sample: Sample) -> None:
    assert sample.label is not None
    with_labels = digest_samples([sample], labels=True)
    without = digest_samples([sample], labels=False)
    sample.label.path.write_bytes(b"other")
    assert digest_samples([sample], labels=True) != with_labels
    assert digest_samples([sample], labels=False) == without
    sample.image.write_bytes(b"other")
    assert digest_samples([sample], labels=False) != without


def test_the_digest_of_unlabelled_samples_opens_no_label(sample: Sample) -> None:
    before = digest_samples([sample], labels=False)
    assert sample.label is not None
    sample.label.path.unlink()
    assert digest_samples([sample], labels=False) == before
    with pytest.raises(InputError, match=r"label\.png cannot be read"):
        digest_samples([sample], labels=True)


def test_remembered_digests_are_those_of_the_files(sample: Sample, known: FileDigests) -> None:
    plain = digest_samples([sample], labels=True)
    assert digest_samples([sample], labels=True, digest=known.digest) == plain
    assert digest_samples([sample], labels=True, digest=known.digest) == plain


def test_a_file_is_read_once_and_again_only_when_it_changes(
    sample: Sample, known: FileDigests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = known.digest(sample.image)
    status = sample.image.stat()
    with monkeypatch.context() as patch:
        patch.setattr(digests, "digest_file", pytest.fail)
        assert known.digest(sample.image) == first
        again = FileDigests(tmp_path / "cache" / "digests.sqlite")  # another process
        assert again.digest(sample.image) == first
    sample.image.write_bytes(b"IMAGE")  # as long as before
    os.utime(sample.image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert known.digest(sample.image) == digest_file(sample.image) != first


def test_a_missing_file_is_named(known: FileDigests, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        known.digest(tmp_path / "gone.png")


def test_a_database_that_is_none_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"digests\.sqlite cannot be used .* delete it"):
        FileDigests(tmp_path / "digests.sqlite")


def test_a_digest_that_somebody_else_found_is_remembered(
    sample: Sample, known: FileDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.remember([(sample.image, "0" * 32)])
    monkeypatch.setattr(digests, "digest_file", pytest.fail)
    assert known.digest(sample.image) == "0" * 32
