"""The conventions of the repository that no tool checks."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with mlflow

from selftrain.command_line import leaf_types
from selftrain.config import Config
from selftrain.knobs import flatten

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "selftrain"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

TESTED_ELSEWHERE = {
    "__init__.py": "a docstring",
    "__main__.py": "integration/test_entry_points.py, bad_input/test_cases.py",
    "commands.py": "test_command_line.py, test_help.py",
    "cores.py": "test_machine.py",
    "delivery.py": "test_tracking.py, integration/test_outages.py",
    "licences.py": "test_model_card.py",
    "lineage_figure.py": "test_lineage.py",
    "lineage_record.py": "test_lineage.py",
    "model_versions.py": "test_registry.py, integration/test_outages.py",
    "doctor_checks.py": "test_doctor.py",
    "doctor_probe.py": "test_doctor.py",
    "doctor_torch.py": "test_doctor.py",
    "endings.py": "test_actions.py",
    "errors.py": "exceptions, raised in bad_input/test_cases.py",
    "identity.py": "test_pipeline.py",
    "knobs.py": "test_config.py",
    "labels.py": "one number",
    "locks.py": "test_stage.py, integration/test_same_stage.py",
    "passwords.py": "test_security.py, test_tracking.py",
    "presentation.py": "test_pipeline.py",
    "saved_views.py": "integration/test_browser.py",
    "sources.py": "test_datasets.py",
    "store_address.py": "test_tracking.py, bad_input/test_stores.py, test_doctor.py",
    "store.py": "test_tracking.py, bad_input/test_stores.py",
    "sync.py": "integration/test_outages.py",
    "system_metrics.py": "test_tracking.py",
    "sweep_plots.py": "test_sweep.py",
    "training.py": "test_train.py",
    "trained_runs.py": "test_pipeline.py, test_rounds.py, test_weights_of_runs.py",
    "sweep_storage.py": "test_search.py, integration/test_sweep_workers.py",
    "audit/__init__.py": "a docstring",
    "data/__init__.py": "a docstring",
    "data/cache_writing.py": "data/test_cache.py",
    "data/cached_frames.py": "test_datasets.py",
    "data/sample.py": "data/test_reader.py, data/test_digests.py",
    "data/splits/__init__.py": "a docstring",
    "data/splits/make_camvid.py": "data/test_camvid.py",
    "data/splits/make_cityscapes.py": "data/test_cityscapes.py",
    "models/__init__.py": "models/test_networks.py",
    "models/fast_scnn.py": "models/test_networks.py",
    "models/convnext.py": "models/test_networks.py",
    "models/linear.py": "models/test_networks.py",
    "models/mobilenet.py": "models/test_networks.py",
    "models/resnet.py": "models/test_networks.py",
    "scenery/__init__.py": "a docstring",
    "scenery/abroad.py": "data/test_scenes.py",
    "scenery/canvas.py": "data/test_scenes.py",
    "scenery/foreign.py": "data/test_scenes.py",
    "scenery/furniture.py": "data/test_scenes.py",
    "scenery/houses.py": "data/test_scenes.py",
    "scenery/layout.py": "data/test_scenes.py",
    "scenery/people.py": "data/test_scenes.py",
    "scenery/planes.py": "data/test_scenes.py",
    "scenery/plants.py": "data/test_scenes.py",
    "scenery/street.py": "data/test_scenes.py",
    "scenery/style.py": "data/test_scenes.py",
    "scenery/traffic.py": "data/test_scenes.py",
    "scenery/weather.py": "data/test_scenes.py",
}
"""Modules without a test file of their name, and where they are tested."""


def project() -> dict[str, Any]:
    """Return MLproject."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "MLproject").read_text())
    return found


def entry_points() -> dict[str, dict[str, Any]]:
    """Return the entry points of MLproject."""
    found: dict[str, dict[str, Any]] = project()["entry_points"]
    return found


def tracked() -> list[Path]:
    """Return the files that git knows, or would add, and that are there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def imports(module: Path) -> Iterator[str]:
    """Yield the full names that a module of the package imports."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_pyproject_and_conda_yaml_name_the_same_packages_at_the_same_pins() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    conda = yaml.safe_load((REPOSITORY / "conda.yaml").read_text())
    (pip,) = (entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip == pyproject["project"]["dependencies"]
    assert all("==" in requirement for requirement in pip)


def test_every_stage_is_an_entry_point_and_every_entry_point_starts_the_stage_of_its_name() -> None:
    from selftrain.actions import ACTIONS

    others = {"report": "python -m analysis.report "}  # selftrain does not know the analysis
    assert set(entry_points()) == {*ACTIONS, *others}
    for name, entry_point in entry_points().items():
        start = others.get(name, f"python -m selftrain {name} ")
        assert entry_point["command"].startswith(start)


@pytest.mark.parametrize("name", entry_points())
def test_an_entry_point_hands_each_of_its_parameters_to_a_knob(name: str) -> None:
    command, parameters = entry_points()[name]["command"], entry_points()[name]["parameters"]
    used = dict(re.findall(r"--(\S+) \{(\w+)\}", command))
    assert sorted(used.values()) == sorted(parameters)
    known = leaf_types(Config)
    for path, parameter in used.items():
        assert path in known
        assert path.rpartition(".")[2] == parameter


def test_mlproject_repeats_the_defaults_of_the_knobs() -> None:
    defaults = flatten(Config())
    for entry_point in entry_points().values():
        for path, parameter in re.findall(r"--(\S+) \{(\w+)\}", entry_point["command"]):
            declared = entry_point["parameters"][parameter]
            assert str(declared.get("default", defaults[path])) == str(defaults[path])


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "mlflow",
            {
                "tracking.py",
                "store.py",
                "delivery.py",
                "model_versions.py",
                "system_metrics.py",
                "serving.py",
            },
        ),
        ("optuna", {"search.py", "sweep.py", "sweep_plots.py", "sweep_storage.py"}),
        ("torch.distributed", {"distributed.py", "launch.py"}),
        ("torch.nn.parallel", {"engine.py"}),
    ],
)
def test_a_package_is_imported_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = {
        str(module)
        for module in MODULES
        if any(f"{name}.".startswith(f"{package}.") for name in imports(module))
    }
    assert users <= allowed


def test_no_file_is_named_for_having_no_subject() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "base"}
    assert not [path for path in tracked() if path.stem.lower() in vague]


def test_every_module_has_a_test_file_of_its_name_or_says_where_it_is_tested() -> None:
    tests = REPOSITORY / "tests"
    untested = {
        str(module)
        for module in MODULES
        if not (tests / module.with_name(f"test_{module.name}")).exists()
    }
    assert untested - set(TESTED_ELSEWHERE) == set()
    there = {str(module) for module in MODULES}
    assert set(TESTED_ELSEWHERE) & there <= untested  # the list holds no more than it must
    for reason in TESTED_ELSEWHERE.values():
        for name in re.findall(r"\S*test_\w+\.py", reason):
            assert (tests / name).exists(), name


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    # In two parts, so that this line is not found.
    private = re.compile(rb"(?<![\w.])/(?:home|root|wor" + rb"k|Users)/\w")
    found = [path for path in tracked() if private.search(path.read_bytes())]
    assert found == []


RUNS_CODE = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def runs_anything(node: ast.AST) -> str | None:
    """Return what in a call or an import may run code that stands in a file or in a text."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        found = {it.name.partition(".")[0] for it in node.names} if module is None else {module}
        return ", ".join(found & UNPICKLES) or None
    if not isinstance(node, ast.Call):
        return None
    call = ast.unparse(node.func)
    given = {it.arg: ast.unparse(it.value) for it in node.keywords}
    name = call.rpartition(".")[2]
    unsafe = (
        call in RUNS_CODE
        or (call == "torch.load" and given.get("weights_only") != "True")
        or given.get("allow_pickle", "False") != "False"
        or (call in ("np.load", "numpy.load", "np.savez") and given.get("allow_pickle") != "False")
        or (name in ("load", "load_all", "unsafe_load") and call.startswith("yaml."))
        or name in ("read_pickle", "to_pickle")
        or given.get("shell", "False") != "False"
        or call in ("os.system", "os.popen")
    )
    return f"{call}(...)" if unsafe else None


def test_nothing_runs_code_from_a_file_or_by_a_shell() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}: {what}"
        for folder in ("selftrain", "analysis", "experiments")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (what := runs_anything(node))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "pd.read_pickle(path)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_what_would_run_code_is_seen(line: str) -> None:
    assert any(runs_anything(node) for node in ast.walk(ast.parse(line)))


def test_no_file_is_larger_than_a_megabyte() -> None:
    assert [path for path in tracked() if path.stat().st_size >= 1_000_000] == []


def test_the_readme_has_no_gaps_and_its_files_exist() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert not re.findall(r"@[A-Z]+@", text)
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_map_of_the_code_names_every_module() -> None:
    text = (REPOSITORY / "docs" / "code.md").read_text()
    modules = (
        path.stem for path in MODULES if path.stem != "__init__" and path.parts[0] != "scenery"
    )
    assert [name for name in modules if f"{name}.py" not in text] == []
