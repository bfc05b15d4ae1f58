"""The speed experiments run, in miniature, and record what they promise; how fast is theirs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.speed import (
    confusion_matrix,
    crop,
    crop_schedules,
    data_path,
    demo,
    inference,
    pseudo_label,
    rehearsal,
    scan,
    scenes,
    serving,
    training_step,
    turns,
    tutorial,
)
from experiments.speed.measure import keep_others, report
from experiments.speed.usual_step import Usual, UsualLabels, require_equal
from selftrain.inference import Predictor
from selftrain.models import SegmentationNetwork, build_network
from selftrain.schedules import SCHEDULES

CPU = torch.device("cpu")


def shrink(module: object, monkeypatch: pytest.MonkeyPatch, **constants: object) -> None:
    for name, value in constants.items():
        monkeypatch.setattr(module, name, value)


def require_positive(record: dict[str, object], names: Sequence[str]) -> None:
    for name in names:
        value = record[name]
        assert isinstance(value, float), name
        assert value > 0, name


@pytest.fixture(autouse=True)
def same_threads() -> object:
    """Some experiments set torch's threads for good."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def step_record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `training_step` measures of one small network, in the CPU's ways."""
    setting = replace(
        training_step.default_setting(CPU),
        networks=["fast_scnn", "deeplabv3plus-resnet9000"],
        crop=64,
        batch=2,
        seconds=0.1,
        workers=0,
    )
    return training_step.measure(tmp_path_factory.mktemp("step"), setting)


def network_record(record: dict[str, object]) -> dict[str, object]:
    found = record["fast_scnn"]
    assert isinstance(found, dict)
    return found


def test_training_step_records_speed_and_share_of_the_product_of_every_way(
    step_record: dict[str, object],
) -> None:
    record = network_record(step_record)
    trained = ("ours", "usual_fp32")
    require_positive(record, ["gflop_per_crop", "product_gflop_per_s", "parameters_m"])
    require_positive(record, [f"{way}_images_per_s" for way in (*trained, "end_to_end", "loader")])
    for way in trained:
        speed, share = record[f"{way}_images_per_s"], record[f"{way}_share_of_product"]
        work, most = record["gflop_per_crop"], record["product_gflop_per_s"]
        assert isinstance(speed, float)
        assert isinstance(work, float)
        assert isinstance(most, float)
        assert share == pytest.approx(speed * work / most)
        assert f"{way}_peak_gib" in record
    assert record["batch"] == 2


def test_training_step_compares_ours_with_the_usual_way_and_an_epoch_from_files(
    step_record: dict[str, object],
) -> None:
    record = network_record(step_record)
    ours, usual = record["ours_images_per_s"], record["usual_fp32_images_per_s"]
    fed = record["end_to_end_images_per_s"]
    assert isinstance(ours, float)
    assert isinstance(usual, float)
    assert isinstance(fed, float)
    assert record["ours_over_usual_fp32"] == pytest.approx(ours / usual)
    assert record["end_to_end_share"] == pytest.approx(fed / ours)
    after_first = record["end_to_end_share_after_first"]
    assert isinstance(after_first, float)
    assert after_first > fed / ours  # the wait for the first batch is left out
    require_positive(record, ["first_batch_s"])


def test_training_step_leaves_out_a_network_that_is_not_there_and_can_be_written(
    step_record: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "deeplabv3plus-resnet9000" not in step_record
    report(step_record, tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == step_record
    assert "fast_scnn.ours_images_per_s" in capsys.readouterr().out


def test_our_other_ways_train_with_the_knobs_that_they_are_named_after(tmp_path: Path) -> None:
    ways = ("ours", "ours_checkpointed")
    setting = replace(training_step.default_setting(CPU), ways=ways, crop=64, batch=2, workers=0)
    samples = turns.write_scenes(tmp_path / "frames", crop=64)
    contest = training_step.Contest("fast_scnn", samples, turns.scenes_reader(), setting)
    machines = {way: training.machine for way, training in contest.ours.items()}
    assert not machines["ours"].checkpointing
    assert machines["ours_checkpointed"].checkpointing
    assert set(contest.turns) == set(contest.peaks) == set(ways)


def test_a_batch_that_does_not_fit_is_halved_until_batch_norm_forbids_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[int] = []

    def fail_above_two(*_: object) -> dict[str, object]:
        setting = _[-1]
        assert isinstance(setting, training_step.Setting)
        tried.append(setting.batch)
        if setting.batch > limit:
            raise torch.OutOfMemoryError
        return {"batch": setting.batch}

    monkeypatch.setattr(training_step, "measure_network", fail_above_two)
    setting = replace(training_step.default_setting(CPU), networks=["fast_scnn"], crop=64, batch=8)
    limit = 2
    assert training_step.measure(tmp_path, setting)["fast_scnn"] == {"batch": 2}
    assert tried == [8, 4, 2]
    limit = 1
    with pytest.raises(torch.OutOfMemoryError):
        training_step.measure(tmp_path, setting)


def tiny_network(seed: int = 0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(
        "fast_scnn", num_classes=19, backbone="", output_stride=8, backbone_weights="none"
    )


def test_the_usual_step_is_given_normalised_floats_and_trains_the_same_network() -> None:
    network = tiny_network()
    batch = turns.synthetic_batch(64, 2, 19, CPU)
    usual = Usual(network, batch, amp=False)
    assert usual.images.dtype == torch.float32
    assert usual.images.abs().max() < 3
    require_equal(network, usual, batch[0])
    with pytest.raises(AssertionError, match="same network"):
        require_equal(tiny_network(seed=1), usual, batch[0])


def test_the_usual_step_changes_its_own_weights_and_not_ours() -> None:
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    usual = Usual(network, turns.synthetic_batch(64, 2, 19, CPU), amp=False)
    usual(2)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    moved = dict(usual.network.named_parameters())
    assert any(not torch.equal(moved[name], p) for name, p in network.named_parameters())


@pytest.mark.parametrize("groups", [1, 8])
def test_operations_of_a_convolution_are_counted_by_hand(groups: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.conv(images.float().repeat(1, 3, 1, 1)[:, :8])
            return features

    # Two for a multiplication and an addition, three for forward and the two gradients.
    by_hand = 3 * 2 * 32 * 32 * 16 * (8 // groups) * 9
    assert training_step.count_flop(Net(), 32) == by_hand


def test_peak_memory_sees_what_was_there_for_a_moment() -> None:
    before = turns.held_bytes(CPU)
    peak = turns.peak_bytes(CPU, lambda: [torch.ones(64, 2**20).sum() for _ in range(3)])
    assert 0.7 * 2**28 < peak - before < 1.5 * 2**28


def test_ways_take_turns_and_longer_ones_take_more_steps() -> None:
    log: list[tuple[str, int]] = []

    def make(name: str, seconds: float) -> Callable[[int], float]:
        def turn(steps: int) -> float:
            log.append((name, steps))
            return seconds * steps

        return turn

    ways = turns.take_turns(
        {"slow": make("slow", 2.0), "fast": make("fast", 0.01), "fed": make("fed", 0.01)},
        seconds=60,
        longer=["fed"],
    )
    assert ways["slow"].seconds == 2.0
    assert ways["fed"].steps == pytest.approx(4 * ways["fast"].steps, abs=4)
    rounds = [name for name, _ in log[-3 * turns.ROUNDS :]]
    assert rounds == ["slow", "fast", "fed"] * turns.ROUNDS


@pytest.fixture(scope="module")
def schedules_record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    setting = crop_schedules.Setting(
        device=CPU,
        network="fast_scnn",
        crop=96,
        batch=2,
        seconds=0.1,
        check_epochs=3,
        check_steps=2,
        workers=0,
    )
    return crop_schedules.measure(tmp_path_factory.mktemp("schedules"), setting)


def arm_record(record: dict[str, object], name: str) -> dict[str, float]:
    found = record[name]
    assert isinstance(found, dict)
    return found


def test_crop_schedules_records_every_schedule_beside_the_limit_and_the_paper(
    schedules_record: dict[str, object],
) -> None:
    for arm in crop_schedules.ARMS:
        found = arm_record(schedules_record, arm.name)
        assert set(found) == {"hours", "speedup", "area_limit", "paper"}
        assert found["hours"] > 0
    constant = arm_record(schedules_record, "constant")
    assert (constant["speedup"], constant["area_limit"], constant["paper"]) == (1, 1, 1)
    names = {arm.name for arm in crop_schedules.ARMS}
    assert len(names) == 1 + 4 * 2 * 2
    assert arm_record(schedules_record, "fine2coarse warm-up constant_pixels")["paper"] == 1.7


def test_schedules_that_hold_the_same_sizes_cost_the_same(
    schedules_record: dict[str, object],
) -> None:
    for options in ("", " warm-up", " constant_pixels", " warm-up constant_pixels"):
        hours = [
            arm_record(schedules_record, schedule + options)["hours"] for schedule in SCHEDULES[1:]
        ]
        assert all(one == pytest.approx(other) for one, other in pairwise(hours))


def test_crop_schedules_times_each_size_and_batch(
    schedules_record: dict[str, object],
) -> None:
    kinds = ["96 x 2", "64 x 2", "64 x 4", "40 x 2", "40 x 10"]
    for table in ("images_per_s", "epoch_s"):
        found = arm_record(schedules_record, table)
        assert sorted(found) == sorted(kinds)
        assert all(value > 0 for value in found.values())


def test_crop_schedules_trains_under_each_schedule_and_under_its_two_options_for_real(
    schedules_record: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = arm_record(schedules_record, "check")
    assert (checked["epochs"], checked["crops_of_an_epoch"]) == (3, 4)
    optional = "coarse2fine_plus warm-up constant_pixels"
    arms = {name: arm_record(dict(checked), name) for name in (*SCHEDULES, optional)}
    for name, found in arms.items():
        ratio = arms["constant"]["seconds"] / found["seconds"]  # of as many crops
        assert found["speedup"] == pytest.approx(ratio), name
        require_positive(dict(found), ["planned", "speedup", "area_limit"])
    for name in (*SCHEDULES[1:], optional):  # too short to be warmed up
        assert arms[name]["area_limit"] == pytest.approx(3 * 96**2 / (40**2 + 64**2 + 96**2))
    report(schedules_record, tmp_path / "record.json")
    assert "check.fine2coarse.speedup" in capsys.readouterr().out


def test_pseudo_label_records_each_way_beside_the_bare_forward(tmp_path: Path) -> None:
    setting = pseudo_label.Setting(device=CPU, width=64, images=6, steps=1, manifest=40, workers=0)
    record = pseudo_label.measure(tmp_path, setting)
    for way in pseudo_label.WAYS:
        found = record[way]
        assert isinstance(found, dict)
        assert found["share"] == found["labelled_images_per_s"] / found["bare_images_per_s"] > 0
    for part, names in {
        "encode": ["all_ms", "label_png_ms", "confidence_png_ms", "centroids_ms", "digest_ms"],
        "manifest": ["open_s", "global_s", "cbst_s", "dars_s"],
    }.items():
        found = record[part]
        assert isinstance(found, dict)
        require_positive(found, names)
    assert not (tmp_path / "flip").exists()  # a turn leaves nothing to the next


def test_inference_records_every_way_and_the_memory_of_a_large_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(inference, monkeypatch, LARGE_WAYS=[("fast_scnn", "window")])
    setting = replace(
        inference.default_setting(CPU),
        networks=["fast_scnn", "deeplabv3plus-resnet9000"],
        ways=inference.WAYS,
        size=64,
        seconds=0.1,
        large=256,
    )
    record = inference.measure(setting)
    assert set(record) == {
        "what",
        "device",
        "machine",
        "fast_scnn",
        "fast_scnn window 512x256",
    }
    network, large = record["fast_scnn"], record["fast_scnn window 512x256"]
    assert isinstance(network, dict)
    assert isinstance(large, dict)
    for way in inference.WAYS:
        require_positive(
            network, [f"{way}_images_per_s", f"{way}_gflop", f"{way}_share_of_product"]
        )
    ratio = network["whole_images_per_s"] / network["usual_images_per_s"]
    assert network["ours_over_usual"] == pytest.approx(ratio)
    assert network["usual_gflop"] == network["whole_gflop"]
    # Windows of 50 pixels in 64 see more than the image; three scales and two sides, more again.
    assert network["whole_gflop"] < network["window_gflop"] < network["all_gflop"]
    # The probabilities alone are so large.
    assert 512 * 256 * 19 * 4 / 2**30 < large["peak_gib"] < 1
    report(record, tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == record


def test_the_usual_labels_are_those_of_the_same_network() -> None:
    network = tiny_network().eval()
    images, _ = turns.synthetic_batch(64, 2, 19, CPU)
    usual = UsualLabels(network, images)
    require_equal(network, usual, images)
    ours, _ = Predictor(network, CPU).labels(images)
    assert (usual.labels() == ours).float().mean() > 0.999
    with pytest.raises(AssertionError, match="same network"):
        require_equal(tiny_network(seed=1), usual, images)


def test_a_network_that_is_measured_again_leaves_the_others_in_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "record.json"
    facts: dict[str, object] = {"what": "training", "machine": {"cpu": "one"}}
    older = {**facts, "a": {"images_per_s": 1.0}, "b": {"images_per_s": 2.0}}
    assert keep_others(older, file) == keep_others(older, None) == older
    report(older, file)
    again = {**facts, "b": {"images_per_s": 3.0}}
    assert keep_others(again, file) == {**older, "b": {"images_per_s": 3.0}}
    for other in ({"machine": {"cpu": "another"}}, {"what": "other crops"}):
        assert keep_others({**again, **other}, file) == {**again, **other}
        assert "other conditions" in capsys.readouterr().err


def test_confusion_matrix_records_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(confusion_matrix, monkeypatch, WIDTH=512, HEIGHT=256, REPEATS=1)
    names = ["ours_ms", "usual_ms", "usual_unchecked_ms", "ratio"]
    require_positive(confusion_matrix.measure(), names)


def test_crop_records_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(crop, monkeypatch, WIDTH=256, HEIGHT=128, CROP_SIZE=100, CROPS=2, REPEATS=1)
    require_positive(crop.measure(), ["ours_ms", "usual_ms", "ratio"])


def test_data_path_records_every_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"WIDTH": 256, "HEIGHT": 128, "FRAMES": 1, "CROP_SIZE": 64, "CROPS": 2, "REPEATS": 1}
    shrink(data_path, monkeypatch, **small)
    record = data_path.measure(tmp_path)
    ways = {"png", "jpeg", "cache", "float_png", "float_jpeg", "float_cache", "usual"}
    for table in ("crops_per_s", "ratio"):
        found = record[table]
        assert isinstance(found, dict)
        assert set(found) == ways
        require_positive(found, sorted(ways))


def test_scan_records_its_parts_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (confusion_matrix, scan):
        shrink(module, monkeypatch, WIDTH=512, HEIGHT=256)
    shrink(scan, monkeypatch, FRAMES=1, REPEATS=1, TILE=256)
    record = scan.measure()
    require_positive(record, ["label_centroids_ms", "threads_speedup", "processes_speedup"])
    assert set(record["per_core"]) == {"labels", "with_digests", "with_images"}  # type: ignore[call-overload]


def test_scenes_records_images_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(scenes, monkeypatch, WIDTH=64, HEIGHT=32, SCENES=1, REPEATS=1)
    require_positive(scenes.measure(), ["images_per_second", "ms_per_image", "cpu_ms_per_image"])


@pytest.mark.parametrize("module", [demo, rehearsal])
def test_whole_runs_record_what_their_commands_took(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []

    def watch(command: Sequence[str], folder: Path) -> tuple[float, int]:
        assert folder.is_dir()
        words.extend(command)
        return 2.5, 2**30

    shrink(module, monkeypatch, watch=watch)
    record = module.measure(["--machine.workers=0"])  # type: ignore[attr-defined]
    assert (record["seconds"], record["peak_gib"]) == (2.5, 1.0)
    assert "--machine.workers=0" in words


@pytest.mark.usefixtures("store")
def test_serving_records_every_form_and_number_of_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(serving, monkeypatch, FORWARDS=1)
    setting = serving.Setting(width=64, requests=4, clients=(1, 2), rounds=1)
    record = serving.measure(tmp_path, setting)
    require_positive(record, ["forward_ms"])
    for form in ("file", "array"):
        for clients in ("1 client", "2 clients"):
            found = record[f"{form}, {clients}"]
            assert isinstance(found, dict)
            require_positive(found, ["median_ms", "median_over_forward", "requests_per_s"])
            assert found["p95_ms"] >= found["median_ms"]
            assert found["requests"] == 4
    sizes = record["request_bytes"]
    assert isinstance(sizes, dict)
    assert 0 < sizes["file"] < sizes["array"]


def test_the_tutorial_is_timed_by_the_commands_of_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
    for size in tutorial.SIZES:
        assert f"-P {size.removeprefix('--')}" in page
    assert f"range({tutorial.PICTURES})" in page
    assert f"number < {tutorial.MASKS}" in page
    commands: list[Sequence[str]] = []

    def watch(command: Sequence[str], folder: Path) -> tuple[float, int]:
        commands.append(command)
        root = folder / "pictures"
        assert [len(list((root / name).iterdir())) for name in ("images", "labels")] == [3, 1]
        (folder / "outputs" / "main-folder-1").mkdir(parents=True, exist_ok=True)
        table = "metric,teacher,control,student\ntest mIoU,1.5,2.5,3.5\ntest IoU road,1,2,3\n"
        (folder / "outputs" / "main-folder-1" / "comparison.csv").write_text(table)
        return 2.5, 2**30

    shrink(tutorial, monkeypatch, watch=watch, PICTURES=3, MASKS=1)
    record = tutorial.measure(["--machine.workers=0"])
    assert record["miou"] == {"teacher": 1.5, "control": 2.5, "student": 3.5}
    assert (record["seconds"], record["peak_gib"]) == (2.5, 1.0)
    assert [command[0] for command in commands] == ["prepare", "main"]
    assert all("--machine.workers=0" in command for command in commands)
    assert set(tutorial.SIZES) <= set(commands[1])
