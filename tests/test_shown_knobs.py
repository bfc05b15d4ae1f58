"""Which knobs a run shows as params."""

from pathlib import Path

import pytest

from selftrain.benchmarks import BENCHMARKS, benchmark
from selftrain.config import Config
from selftrain.knobs import Scalar, flatten, override
from selftrain.shown_knobs import shown_knobs

SECTIONS = ("teacher", "student", "finetune", "pseudo_label", "evaluate")


def shown(config: Config, section: str) -> dict[str, Scalar]:
    usual = benchmark(config.benchmark)
    return shown_knobs(section, getattr(config, section), getattr(usual, section))


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_run_shows_about_thirty_knobs_and_never_more_than_sixty(name: str, section: str) -> None:
    config = benchmark(name)
    assert len(shown(config, "data") | shown(config, section)) <= 35


def test_knobs_keep_their_paths_and_values() -> None:
    config = benchmark("scenes")
    whole = flatten(config)
    found = shown(config, "student") | shown(config, "data")
    assert found.items() <= whole.items()
    assert found["student.optim.lr"] == 0.004
    assert found["student.data.pseudo_ratio"] == 1.0
    assert found["student.crop.schedule"] == "constant"
    assert found["data.labelled_fraction"] == 0.125


def test_what_is_not_as_always_is_shown_whatever_it_is() -> None:
    whole = flatten(benchmark("scenes").student)
    hidden = [
        knob for knob in whole if f"student.{knob}" not in shown(benchmark("scenes"), "student")
    ]
    assert "loss.ohem_kept" in hidden
    changed = override(benchmark("scenes"), {"student.loss.ohem_kept": 0.5})
    assert shown(changed, "student")["student.loss.ohem_kept"] == 0.5


def test_a_default_that_is_not_the_benchmarks_own_is_shown() -> None:
    assert flatten(Config())["student.augment.jitter"] == 0.25
    changed = override(benchmark("scenes"), {"student.augment.jitter": 0.25})
    assert shown(changed, "student")["student.augment.jitter"] == 0.25


def test_selecting_is_shown_only_where_there_are_pseudo_labels() -> None:
    config = benchmark("scenes")
    assert "student.select.threshold" in shown(config, "student")
    assert "teacher.select.threshold" not in shown(config, "teacher")


def test_every_knob_that_is_hidden_is_at_its_default() -> None:
    """So that a run's params and the defaults together are its whole recipe."""
    config = override(benchmark("camvid_small"), {"student.strong.cutmix": 0.5})
    for section in ("student", "data"):
        defaults = flatten(type(getattr(config, section))())
        whole = {f"{section}.{k}": v for k, v in flatten(getattr(config, section)).items()}
        found = shown(config, section)
        filled = {f"{section}.{k}": v for k, v in defaults.items()} | found
        assert filled == whole
    assert not any(isinstance(value, Path) for value in shown(config, "data").values())


def test_a_backbone_is_shown_only_of_a_network_that_has_one() -> None:
    assert "student.network.backbone" not in shown(benchmark("scenes"), "student")
    assert "student.network.backbone" in shown(benchmark("cityscapes"), "student")
