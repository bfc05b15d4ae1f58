"""What the pool must not hold, found by content and refused by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from selftrain.clean_pool import (
    read_labelled,
    require_clean_pool,
    require_new_to_teacher,
    write_labelled,
)
from selftrain.config import Config
from selftrain.data.sample import Sample
from selftrain.datasets import OpenData, open_data
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override


def with_a_copy(data: OpenData, sample: Sample, folder: Path) -> OpenData:
    """Return the data with a sample's picture in the pool, under another name."""
    copied = Path(shutil.copy(sample.image, folder / "renamed.png"))
    pool = [*data.splits.unlabelled, Sample("renamed", copied)]
    return replace(data, splits=replace(data.splits, unlabelled=pool))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.labelled_fraction": 1.0}, r"data\.labelled_fraction = 1 labels them all"),
        ({"data.scenes.images": 1}, r"data\.scenes\.images = 1 is too few"),
    ],
)
def test_an_empty_pool_is_blamed_on_the_knob_that_empties_it(
    values: dict[str, Scalar], message: str, tiny: Config
) -> None:
    with pytest.raises(InputError, match=f"no unlabelled images: {message}"):
        require_clean_pool(open_data(override(tiny, values)), allow_labelled=False)


def test_a_pool_that_shares_nothing_is_clean(tiny_data: OpenData) -> None:
    require_clean_pool(tiny_data, allow_labelled=False)


@pytest.mark.parametrize("allow_labelled", [False, True])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_copy_of_a_held_out_image_in_the_pool_is_refused_always(
    split: str, allow_labelled: bool, tiny_data: OpenData, tmp_path: Path
) -> None:
    held_out = {"dev": tiny_data.splits.dev, **tiny_data.splits.evaluation}[split]
    data = with_a_copy(tiny_data, held_out[1], tmp_path)
    with pytest.raises(InputError, match=rf"renamed\.png is also in the {split} split"):
        require_clean_pool(data, allow_labelled=allow_labelled)


def test_a_copy_of_an_image_for_a_test_server_is_refused_too(
    tiny_data: OpenData, tmp_path: Path
) -> None:
    hidden = tiny_data.splits.unlabelled[0].without_label()
    splits = replace(
        tiny_data.splits, unlabelled=tiny_data.splits.unlabelled[1:], to_submit=[hidden]
    )
    data = with_a_copy(replace(tiny_data, splits=splits), hidden, tmp_path)
    with pytest.raises(InputError, match=r"renamed\.png is also in the to_submit split"):
        require_clean_pool(data, allow_labelled=True)


def test_a_copy_of_a_labelled_image_is_refused_unless_it_is_allowed(
    tiny_data: OpenData, tmp_path: Path
) -> None:
    data = with_a_copy(tiny_data, tiny_data.splits.labelled[0], tmp_path)
    with pytest.raises(InputError, match=r"renamed\.png is a labelled image .*allow_labelled"):
        require_clean_pool(data, allow_labelled=False)
    require_clean_pool(data, allow_labelled=True)


def test_an_image_that_the_teacher_learned_elsewhere_is_refused(
    tiny_data: OpenData, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
    write_labelled(mine, tiny_data, [])
    require_new_to_teacher(tiny_data, mine)
    learned = replace(tiny_data.splits, labelled=tiny_data.splits.unlabelled[2:3])
    write_labelled(theirs, replace(tiny_data, splits=learned), [])
    name = tiny_data.splits.unlabelled[2].image.name
    with pytest.raises(InputError, match=rf"{name} is one it was trained on \(1 such images\)"):
        require_new_to_teacher(tiny_data, theirs)


def test_what_a_start_has_learned_counts_as_learned(tiny_data: OpenData, tmp_path: Path) -> None:
    start, going_on = tmp_path / "start", tmp_path / "on"
    for folder in (start, going_on):
        folder.mkdir()
    others = replace(tiny_data.splits, labelled=tiny_data.splits.unlabelled)
    write_labelled(start, replace(tiny_data, splits=others), [])
    write_labelled(going_on, tiny_data, [start])
    digest = tiny_data.digests.digest
    both = [*tiny_data.splits.labelled, *tiny_data.splits.unlabelled]
    assert set(read_labelled(going_on)) == {digest(sample.image) for sample in both}


def test_a_network_from_elsewhere_without_a_list_is_taken(
    tiny_data: OpenData, tmp_path: Path
) -> None:
    assert read_labelled(tmp_path) == []
    require_new_to_teacher(tiny_data, tmp_path)
