"""From the config to samples: digests, and pools that may be labelled."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from selftrain import datasets
from selftrain.config import Config, Scalar, override
from selftrain.data.sample import Sample, digest_image
from selftrain.datasets import OpenData, open_data
from selftrain.errors import InputError


def test_no_image_is_hashed_twice(tiny_data: OpenData, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: Counter[Path] = Counter()

    def count(sample: Sample) -> str:
        hashed[sample.image] += 1
        return digest_image(sample)

    monkeypatch.setattr(datasets, "digest_image", count)
    data = replace(tiny_data)  # which has computed nothing
    data.require_clean_pool()
    digests = data.pool_digest, data.dev_digest, data.evaluation_digests, data.labelled_digest
    assert set(hashed.values()) == {1}
    assert len(hashed) == 8 + 2 + 2
    plain = tiny_data
    assert digests == (
        plain.pool_digest,
        plain.dev_digest,
        plain.evaluation_digests,
        plain.labelled_digest,
    )


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
        open_data(override(tiny, values)).require_clean_pool()


def test_a_copy_of_a_held_out_image_in_the_pool_is_found(
    tiny_data: OpenData, tmp_path: Path
) -> None:
    splits = tiny_data.splits
    tiny_data.require_clean_pool()
    copied = Path(shutil.copy(splits.dev[1].image, tmp_path / "renamed.png"))
    pool = [*splits.unlabelled, Sample("renamed", copied)]
    with pytest.raises(InputError, match=r"renamed\.png is also in the dev split"):
        replace(tiny_data, splits=replace(splits, unlabelled=pool)).require_clean_pool()
