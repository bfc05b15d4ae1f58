"""Cards of networks, and what is known of licences."""

from collections.abc import Mapping
from typing import get_args, get_type_hints

import pytest

from selftrain import licences
from selftrain.config import POOLS, DataConfig
from selftrain.lineage import Made
from selftrain.model_card import write_card
from selftrain.tracking import DataRead, Finished


def trained(
    *,
    params: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    sources: tuple[Made, ...] = (),
    link: str = "",
    run_id: str = "r" * 32,
) -> Made:
    given = {"data.dataset": "camvid", "data.pool": "rest", "data.scale": "1.0"}
    run = Finished(
        run_id,
        "train",
        "k" * 16,
        metrics or {},
        {},
        experiment="3",
        tags={"selftrain.role": "student"},
        params=given | dict(params or {}),
        data=[DataRead("real", "a" * 16, 46), DataRead("dev", "b" * 16, None)],
    )
    return Made(run.run_id, run, link, sources)


def card(made: Made, *evaluations: Finished) -> str:
    return write_card(made, benchmark="camvid", evaluations=evaluations)


def test_what_the_run_does_not_say_is_not_made_up() -> None:
    text = card(trained())
    assert "**dev mIoU**: not measured while it was trained (no dev split)." in text
    assert "no pseudo labels" in text
    assert "an unknown number of images" in text
    assert "commit `" not in text
    assert "test" not in text


@pytest.mark.parametrize(
    ("count", "form"), [(19, "| class18 | 18.00 |"), (65, "class17 17.0 · class18 18.0")]
)
def test_many_classes_take_less_room(count: int, form: str) -> None:
    metrics = {f"dev/IoU/class{number}": number / 100 for number in range(count)}
    text = card(trained(metrics={"dev/mIoU": 0.3, **metrics}))
    assert form in text
    assert "belongs in no table" in text
    assert len(text) < 5000


def test_a_card_of_the_largest_class_list_leaves_room_for_what_is_below_it() -> None:
    metrics = {f"dev/IoU/construction--barrier {n:03d}": 0.5 for n in range(65)}
    labels = Made("l" * 32, None, "pseudo_labels", lost="gone")
    text = card(trained(metrics={"dev/mIoU": 0.3, **metrics}, sources=(labels,)))
    assert len(text) < 5000
    assert "**Licences**" in text


def test_evaluations_are_told_apart_by_how_the_network_was_asked() -> None:
    def evaluated(scales: str, miou: float) -> Finished:
        params = {"evaluate.inference.scales": scales}
        return Finished("e" * 32, "evaluate", "k", {"test/mIoU": miou}, {}, params=params)

    text = card(trained(), evaluated("1", 0.5), evaluated("0.5,1", 0.6), evaluated("1", 0.4))
    assert text.count("test mIoU") == 2
    assert "test mIoU 50.00" in text
    assert "scales 0.5,1" in text
    assert "40.00" not in text


def test_the_licences_of_the_whole_chain_are_named_once_each() -> None:
    start = trained(
        params={
            "data.dataset": "mapillary",
            "teacher.network.name": "deeplabv3plus",
            "teacher.network.backbone_weights": "IMAGENET1K_V2",
        },
        link="start",
        run_id="s" * 32,
    )
    gone = Made("g" * 32, None, "pseudo_labels", lost="gone")
    text = card(trained(sources=(gone, start)))
    for words in (
        "CamVid: for research",
        "Mapillary Vistas",
        "IMAGENET1K_V2 of torchvision",
        f"what run {'g' * 32} was made from: not known",
    ):
        assert text.count(words) == 1, words


def test_a_network_without_a_backbone_has_no_weights_to_license() -> None:
    params = {
        "student.network.name": "fast_scnn",
        "student.network.backbone_weights": "IMAGENET1K_V2",
    }
    assert "torchvision" not in card(trained(params=params)).partition("**Licences**")[2]


def test_every_data_set_and_every_pool_has_a_licence_note() -> None:
    datasets = get_args(get_type_hints(DataConfig)["dataset"])
    assert set(licences.DATA) == set(datasets)
    for dataset in datasets:
        assert licences.of_data(dataset, "rest") == [licences.DATA[dataset]]
    for pool in set(POOLS) - {"rest", "train_extra"}:
        assert licences.of_data("cityscapes", f"train_extra+{pool}") == [
            licences.DATA["cityscapes"],
            licences.DATA[pool],
        ]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("none", None),
        ("runs:/abc", None),
        ("models:/a@b", None),
        ("IMAGENET1K_V1", "IMAGENET1K_V1 of torchvision"),
        ("../weights/mobilenet_v2_imagenet.pth", "the file mobilenet_v2_imagenet.pth, by its name"),
        ("own.safetensors", "the file own.safetensors: whoever published it"),
    ],
)
def test_weights_are_described_by_where_they_came_from(weights: str, words: str | None) -> None:
    found = licences.of_weights(weights)
    assert found is None if words is None else found is not None and found.startswith(words)
