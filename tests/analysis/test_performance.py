"""Tables of the records of speed, and the figures that texts take from them."""

import json
import re
from pathlib import Path

import pytest

from analysis.performance import TABLES, render_record
from analysis.splice import splice
from selftrain.errors import InputError

REPOSITORY = Path(__file__).parents[2]
SPEED = REPOSITORY / "results" / "speed"
PAGE = (REPOSITORY / "docs" / "performance.md").read_text()
DATA = (REPOSITORY / "docs" / "data.md").read_text()


def record(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((SPEED / f"{name}.json").read_bytes())
    return found


def test_the_tables_of_the_page_are_those_of_the_records() -> None:
    assert splice(PAGE, REPOSITORY / "results") == PAGE, "run: make tables"


def test_the_page_has_every_record_and_every_record_has_an_experiment() -> None:
    names = {path.stem for path in SPEED.glob("*.json")}
    assert set(re.findall(r"<!-- table: speed/(\w+) -->", PAGE)) == names
    assert names <= set(TABLES)
    assert [it for it in names if not (REPOSITORY / f"experiments/speed/{it}.py").is_file()] == []


def test_no_figure_on_the_page_is_typed_by_hand() -> None:
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", PAGE, flags=re.DOTALL)
    allowed = {"16", "800", "2", "100", "2048x1024", "3.3", "4"}  # settings, not results
    found = set(re.findall(r"(?<![\w.])\d[\d.x]*\d|(?<![\w.])\d(?![\w.])", text))
    assert found <= allowed


@pytest.mark.parametrize("name", TABLES)
def test_what_was_not_measured_is_a_dash(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"what": "nothing"}))
    table = render_record(path)
    assert "nothing" in table
    assert not re.search(r"\d\.\d", table)


def test_a_number_is_the_records(tmp_path: Path) -> None:
    path = tmp_path / "crop.json"
    machine = {"cpu": "P", "cores": "3", "torch": "9"}
    path.write_text(json.dumps({"what": "w", "ours_ms": 2.25, "ratio": 20.04, "machine": machine}))
    table = render_record(path)
    assert re.search(r"\| ours: cut, then resize \(ms\) +\| +2\.2 \|", table)
    assert re.search(r"\| usual: resize, then cut \(ms\) +\| +- \|", table)
    assert "w; 3 cores, P; torch 9." in table


def test_a_record_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text("{}")
    with pytest.raises(InputError, match=r"new\.json has no table: say in analysis/performance"):
        render_record(tmp_path / "new.json")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "crop.json").write_text("{")
    with pytest.raises(InputError, match="measure it again"):
        render_record(tmp_path / "crop.json")


@pytest.mark.parametrize(
    ("pattern", "name", "path", "form"),
    [
        (r"(\d+) frames of 2048x1024 a second and core", "scan", "per_core/with_images", "{:.0f}"),
        (r"one core then cuts (\d+) crops", "data_path", "crops_per_s/cache", "{:.0f}"),
        (r"the usual way from PNG cuts (\d+)", "data_path", "crops_per_s/usual", "{:.0f}"),
        (r"and ([\d.]+) GiB\s+\(`results/speed/rehearsal", "rehearsal", "peak_gib", "{:.1f}"),
    ],
)
def test_a_figure_of_the_page_about_data_is_the_records(
    pattern: str, name: str, path: str, form: str
) -> None:
    found = re.search(pattern, DATA)
    assert found is not None
    value: object = record(name)
    for part in path.split("/"):
        assert isinstance(value, dict)
        value = value[part]
    assert found[1] == form.format(value)
