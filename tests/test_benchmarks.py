"""A benchmark is nothing but values of knobs."""

from pathlib import Path

import pytest

from selftrain.benchmarks import BENCHMARKS, benchmark
from selftrain.config import Config
from selftrain.epochs import count_crops
from selftrain.errors import InputError
from selftrain.knobs import flatten
from selftrain.pipeline import control_config


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_a_legal_config(name: str) -> None:
    config = benchmark(name)
    assert config.benchmark == name
    assert set(flatten(config)) == set(flatten(Config()))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_compares_student_and_control_on_one_recipe(name: str) -> None:
    config = benchmark(name)
    assert config.student.data.pseudo_ratio > 0
    assert config.teacher.data.pseudo_ratio == 0
    assert config.student.network == config.teacher.network
    control = control_config(config.student)
    assert sum(count_crops(control, 328)) == sum(count_crops(config.student, 328))


def test_the_default_needs_no_download() -> None:
    config = benchmark(Config().benchmark)
    assert config.data.dataset == "scenes"
    assert config.teacher.network.backbone_weights == "none"


def test_camvid_lies_beside_the_checkout_wherever_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(checkout)
    config = benchmark("camvid")
    assert config.machine.data_root == Path("../shared/data/camvid")
    monkeypatch.chdir(tmp_path)
    elsewhere = benchmark("camvid")
    assert not elsewhere.machine.data_root.is_absolute()
    assert (
        elsewhere.machine.data_root.resolve() == (checkout.parent / "shared/data/camvid").resolve()
    )
    start, other = (c.teacher.network.backbone_weights for c in (config, elsewhere))
    assert (Path(other).name, other == "IMAGENET1K_V1") == (
        Path(start).name,
        start == "IMAGENET1K_V1",
    )


def test_outside_of_a_checkout_camvid_lies_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftrain.benchmarks.__file__", str(tmp_path / "selftrain/benchmarks.py"))
    config = benchmark("camvid")
    assert config.machine.data_root == Path("data/camvid")
    assert config.teacher.network.backbone_weights == "IMAGENET1K_V1"


def test_an_unknown_benchmark_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no benchmark kamvid; there are scenes, scenes_abroad"):
        benchmark("kamvid")
