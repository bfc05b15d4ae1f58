"""The report: from stores to files and a page, and again from the files alone."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import pytest
from fabricated_runs import attach, record, record_arm

from analysis.report import build_report, main, run
from selftrain.errors import InputError

STUDY = "table1_self_training"
FREQUENCIES = (
    "class,real %,pseudo %,real road:class,pseudo road:class\n"
    "road,90.0,95.0,1.0,1.0\nbus,0.25,0.05,360.0,1900.0\ntrain,0.1,0.0,900.0,\n"
)


def record_study(store: str, folder: Path) -> None:
    """Record Table 1 with 3 seeds; its students are from the labels of `FREQUENCIES`."""
    labels = record(store, "pseudo_label")
    attach(store, labels, "class_frequency.csv", FREQUENCIES, folder)
    for seed, (teacher, student) in enumerate([(38.0, 38.5), (39.0, 41.0), (40.0, 40.0)]):
        record_arm(store, STUDY, "teacher", seed, teacher, section="teacher")
        record_arm(store, STUDY, "student", seed, student, labels=labels)


def test_a_store_with_known_numbers_gives_the_exact_table_and_csvs_give_it_again(
    store: str, tmp_path: Path
) -> None:
    record_study(store, tmp_path)
    page = build_report("scenes", [store], tmp_path / "results")
    folder = page.parent
    table = (folder / f"{STUDY}.md").read_text()
    assert table.startswith(
        "| arm     |   seeds |   mIoU, scenes test |      against control |"
        "   mIoU, paper, Cityscapes val |\n"
        "|:--------|--------:|--------------------:|---------------------:|"
        "------------------------------:|\n"
        "| teacher |       3 |        39.00 ± 1.00 |                      |"
        "                          78.1 |\n"
        "| student |       3 |        39.83 ± 1.26 | +0.83 [+0.00, +2.00] |"
        "                          79.0 |\n"
        "\n"
        "- scenes, 0.125 of the training images labelled; whole images, scales 1; last epoch; "
        "seeds 0, 1, 2: mean ± sample standard deviation.\n"
    )
    written = {path.name for path in folder.iterdir()}
    for name in (STUDY, "figure2_schedules", "class_imbalance"):
        assert {f"{name}.{kind}" for kind in ("md", "tex", "png", "svg")} <= written
    assert {f"{STUDY}.csv", "class_imbalance.csv", "report.html"} <= written
    assert max(path.stat().st_size for path in folder.glob("*.png")) < 200_000

    copy = tmp_path / "copy" / "scenes"
    copy.mkdir(parents=True)
    for path in folder.glob("*.csv"):
        shutil.copy(path, copy)
    build_report("scenes", [], copy.parent)
    for name in sorted(written):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_page_needs_no_other_file_and_says_what_is_missing(store: str, tmp_path: Path) -> None:
    record_study(store, tmp_path)
    record_arm(store, "table2_pseudo_ratio", "teacher", 0, 38.0, section="teacher")
    record_arm(store, "table2_pseudo_ratio", "teacher", 1, 38.0, section="teacher")
    record_arm(store, "table2_pseudo_ratio", "1:1 with CS", 0, 38.0)
    record_arm(store, "table99", "teacher", 0, 38.0)
    page = build_report("scenes", [store], tmp_path / "results").read_text()
    assert set(re.findall(r'src="([^:]+):', page)) == {"data"}
    assert "<link" not in page
    assert "<script" not in page
    assert "+0.83 [+0.00, +2.00]" in page
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td><code>(.*?)</code></td></tr>", page)
    assert ("table2_pseudo_ratio", "real x2: no run", "") in rows
    assert ("table2_pseudo_ratio", "1:1 with CS: 1 of 2 seeds", "") in rows
    command = "mlflow run . -e study -P name=thresholds -P benchmark=scenes"
    assert ("thresholds", "no run", command) in rows
    assert ("sweep_student", "no run", "mlflow run . -e sweep -P benchmark=scenes") in rows
    assert not any(study == "table3_student_networks" for study, _, _ in rows)  # not on scenes
    assert "Left out, as there is no such study: table99." in page


def test_a_benchmark_without_runs_has_figure_2_and_a_list_of_what_is_missing(
    store: str, tmp_path: Path
) -> None:
    page = build_report("camvid", [store], tmp_path / "results")
    assert "No study has a finished run on this benchmark yet." in page.read_text()
    names = {path.name for path in page.parent.iterdir()}
    assert names == {
        "report.html",
        *(f"figure2_schedules.{it}" for it in ("md", "tex", "png", "svg")),
    }


def test_the_csv_of_a_study_without_runs_in_the_stores_is_kept_and_drawn(
    store: str, tmp_path: Path
) -> None:
    record_study(store, tmp_path)
    build_report("scenes", [store], tmp_path / "results")
    kept = tmp_path / "results/scenes" / f"{STUDY}.csv"
    before = kept.read_bytes()
    for arm in mlflow.MlflowClient(store).search_runs(["0"], "tags.`selftrain.stage` = 'arm'"):
        mlflow.MlflowClient(store).delete_run(arm.info.run_id)
    page = build_report("scenes", [store], tmp_path / "results")
    assert kept.read_bytes() == before
    assert "39.83 ± 1.26" in page.read_text()


def test_a_store_is_asked_once_however_many_runs_it_has(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_study(store, tmp_path)
    asked = []
    search, get = mlflow.MlflowClient.search_runs, mlflow.MlflowClient.get_run

    def count(self: mlflow.MlflowClient, *words: object, **named: object) -> object:
        asked.append("search")
        return search(self, *words, **named)

    def count_get(self: mlflow.MlflowClient, run_id: str) -> object:
        asked.append("get")
        return get(self, run_id)

    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", count)
    monkeypatch.setattr(mlflow.MlflowClient, "get_run", count_get)
    build_report("scenes", [store], tmp_path / "results")
    assert asked.count("search") == 1
    assert asked.count("get") <= 1  # for the artifact of the class frequencies


def test_what_a_killed_report_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "scenes" / f".{'0' * 32}.tmp"
    left.parent.mkdir()
    left.touch()
    page = build_report("scenes", [], tmp_path)
    assert page.is_file()
    assert not left.exists()


def test_a_benchmark_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no benchmark moon; there are scenes"):
        build_report("moon", [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_from_csv_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    main(["--benchmark", "scenes", "--from-csv", "--results", "results"])
    assert (tmp_path / "results/scenes/report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_command_tells_a_script_where_the_page_is_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    words = ["--benchmark", "scenes", "--results", "results"]
    assert run([*words, "--from-csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["status"]) == ("report", "finished")
    assert found["files"] == ["results/scenes/report.html"]
    assert f"{STUDY}: no run" in found["gaps"]
    assert found["next"][0].startswith("mlflow run . -e ")
    assert run([*words, "--quiet", "true", "--from-csv"]) == 0
    assert capsys.readouterr().out == ""
    sentence = run([*words, "--json"])
    assert str(sentence).startswith("error: There is no tracking store")
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], f"error: {found['error']}") == ("failed", sentence)


def test_without_a_store_the_command_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"There is no tracking store .*mlflow\.db"):
        main(["--benchmark", "scenes"])
    assert list(tmp_path.iterdir()) == []


def test_under_mlflow_run_the_report_is_logged_to_the_commands_run(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = mlflow.MlflowClient(store).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    # A process of its own has not chosen an experiment yet.
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    main(["--benchmark", "scenes", "--stores", store, "--results", str(tmp_path / "results")])
    logged = mlflow.MlflowClient(store).list_artifacts(run_id, "report")
    assert "report/report.html" in [file.path for file in logged]
    assert mlflow.MlflowClient(store).get_run(run_id).info.status == "FINISHED"
