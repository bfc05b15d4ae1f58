"""Every command that a page asks for is carried out here in miniature, or stands in NOT_RUN."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import OwnStore
from miniature import write_picture
from shell_lines import Command, code_blocks, commands
from shorten import shorten
from test_serving import free_port
from typist import Typist

REPOSITORY = Path(__file__).parents[1]
TUTORIAL = "docs/tutorial.md"
RECIPES = "docs/recipes/"
"""Their commands are carried out where their code has been added: test_recipes.py."""
FIRST = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
OTHERS = sorted(str(it.relative_to(REPOSITORY)) for it in (REPOSITORY / "docs").rglob("*.md"))
PAGES = [*FIRST, *(it for it in OTHERS if it != TUTORIAL and not it.startswith(RECIPES))]

_MINIATURES = "needs the data set; data/test_*.py and integration/test_data_sets.py read miniatures"
_AUTH = "needs a package that is not among ours; tried by hand, as the page says"
_MACHINES = "for two machines; test_launch.py starts two on one"
NOT_RUN = {
    "make setup": "installs gigabytes; all other commands find what it would have made",
    ". .venv/bin/activate": "changes the shell; the typist has .venv/bin on the PATH",
    "make test": "runs this",
    "make check": "CI runs it before the tests",
    "make format": "changes files; its tools run in `make check`",
    "make docs": "test_site.py builds the site",
    "mlflow run . -e sweep --env-manager local -P benchmark=scenes -P objective=dev_and_time": (
        "the line above it is run; test_sweep.py has this objective"
    ),
    **{
        f"python -m selftrain prepare --benchmark {name} --machine.data_root ROOT": _MINIATURES
        for name in ("cityscapes", "mapillary", "camvid", "camvid_original", "kitti", "bdd100k")
    },
    "python -m selftrain prepare --export cityscapes --benchmark cityscapes --machine.data_root "
    "DIR --data.scenes.images 64": "draws for minutes; data/test_scenes_export.py draws two",
    "mlflow run . -e finetune --env-manager local -P benchmark=camvid -P start=RUN": _MINIATURES,
    "python -m selftrain pseudo_label --benchmark cityscapes --machine.data_root ROOT": _MINIATURES,
    "mlflow run . -e pseudo_label --env-manager local -P benchmark=camvid -P teacher=RUN_ID": (
        _MINIATURES
    ),
    "mlflow models serve --model-uri models:/NAME@champion --env-manager local --host 127.0.0.1 "
    "--port 5001": "the tutorial serves a model",
    "pytest tests/integration/test_sweep_workers.py": "is a test already",
    "python -m experiments.speed.NAME --record results/speed/NAME.json": (
        "takes minutes; experiments/test_speed.py runs each in miniature"
    ),
    "mlflow run . -e student --env-manager local -P nproc=4": (
        "four processes; integration/test_processes.py starts two"
    ),
    "export MLFLOW_AUTH_ADMIN_PASSWORD=... MLFLOW_FLASK_SERVER_SECRET_KEY=...": _AUTH,
    "mlflow server --app-name basic-auth --host 127.0.0.1 --port 5917 --backend-store-uri "
    "sqlite:///mlflow.db": _AUTH,
    "MLFLOW_TRACKING_URI=http://127.0.0.1:5917 MLFLOW_TRACKING_USERNAME=... "
    "MLFLOW_TRACKING_PASSWORD=... python -m selftrain prepare": _AUTH,
    "export PET_NNODES=2 PET_RDZV_ENDPOINT=ADDRESS:29500 PET_RDZV_ID=any-word": _MACHINES,
    "selftrain student --benchmark cityscapes --machine.processes 4": _MACHINES,
    "pytest tests/test_slurm.py tests/test_launch.py": "are tests already",
    "pytest tests/test_packaging.py tests/test_containers.py "
    "tests/integration/test_compose_services.py": "are tests already",
    "python -m selftrain student --json 2>/dev/null | python -m json.tool": (
        "test_actions.py reads what commands say as scripts do"
    ),
    "selftrain completion bash > ~/.local/share/bash-completion/completions/selftrain": (
        "writes into one's home; test_completion.py completes in real shells"
    ),
    "pip install dist/selftrain-*.whl": "test_packaging.py installs the wheel",
    "selftrain main": "test_packaging.py runs it, installed",
    **dict.fromkeys(
        (
            "docker build --tag selftrain .",
            "docker build --tag selftrain:cpu --build-arg TORCH_INDEX=INDEX .",
            'docker run --rm --shm-size 2g --volume "$PWD/outputs:/srv/selftrain/outputs" '
            "selftrain main",
            "docker run --rm --shm-size 2g --gpus all --volume DATA:/srv/selftrain/data:ro "
            '--volume "$PWD/outputs:/srv/selftrain/outputs" --env '
            "MLFLOW_TRACKING_URI=http://HOST:5000 selftrain student --benchmark cityscapes "
            "--machine.data_root data --machine.processes 4",
            'export POSTGRES_PASSWORD="$(openssl rand -hex 16)"',
            "docker compose build",
            "docker compose up --scale worker=4",
            "docker compose run --rm worker main",
        ),
        "needs Docker's daemon; test_containers.py reads the files, test_compose_services.py "
        "starts the services",
    ),
    "mlflow models serve -m models:/selftrain-scenes@champion --env-manager local "
    "--host 127.0.0.1 --port 5001": "test_serving.py serves so",
    "python -m experiments.cuda STEP --out DIR --minutes 9": (
        "for a CUDA machine; experiments/test_cuda.py takes steps in miniature"
    ),
    "python -m experiments.speed.serving --record results/speed/serving.json": (
        "takes minutes; experiments/test_speed.py runs it in miniature"
    ),
    "python -m selftrain predict --predict.images clip.mp4 --predict.model runs:/ID "
    "--predict.output out": "test_video.py labels a video",
    "uv pip freeze --exclude-editable > /tmp/installed.txt": "for the command below it",
    "pip-audit -r /tmp/installed.txt --no-deps --disable-pip": "asks a database on the web",
}
"""Commands that are not carried out, and why."""

SERVERS = {
    "make ui": "http://127.0.0.1:5000/health",
    "mlflow models serve": "http://127.0.0.1:5001/ping",
}
"""Beginnings of commands that go on until they are stopped, and where they answer."""


def read(name: str) -> str:
    return (REPOSITORY / name).read_text()


def to_type(*names: str) -> list[object]:
    """Return the commands of pages as parameters of a test."""
    return [
        pytest.param(command, id=f"{name}:{command.line}")
        for name in names
        for command in commands(read(name))
        if command.text not in NOT_RUN
    ]


def carry_out(typist: Typist, command: Command) -> None:
    for beginning, url in SERVERS.items():
        if command.text.startswith(beginning):
            typist.serve(command.text, url, stop=beginning == "make ui")
            return
    typist.type(command.text)


@pytest.fixture(scope="module")
def reader(own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typist]:
    """Somebody who reads the README, and other pages after it."""
    folder, pictures = tmp_path_factory.mktemp("readme"), tmp_path_factory.mktemp("pictures")
    own_pictures(pictures)
    words: dict[str, str] = {
        "DIR2": str(folder / "written"),
        "DIR": str(pictures),
        "ROOT": str(pictures),
        "5000": str(free_port()),
    }
    with own_store(folder) as uri:
        typist = Typist(
            folder,
            {
                **words,
                "URI": uri,
                "RUN2": lambda it: it.made("teacher"),
                # Before RUN: what is said of a set of pseudo labels is said of their run.
                "labels RUN": lambda it: f"labels {it.made('pseudo labels')}",
                "labels RUN_ID": lambda it: f"labels {it.made('pseudo labels')}",
                "RUN": lambda it: it.made("student"),
                "RUN_ID": lambda it: it.made("student"),
                "image NAME": lambda it: f"image {it.labelled_image()}",
                "benchmark NAME": "benchmark scenes",
            },
        )
        yield typist
        typist.leave()


@pytest.fixture(scope="module")
def newcomer(own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typist]:
    """Somebody who follows the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    with own_store(folder):
        typist = Typist(
            folder,
            {
                "range\\(530\\)": "range(60)",
                "529": "059",
                "RUN": lambda it: it.made("student"),
                "5000": str(free_port()),
                "5001": str(free_port()),
            },
        )
        yield typist
        typist.leave()


def own_pictures(root: Path) -> None:
    """Write 20 pictures with masks of two classes, and 4 without."""
    rng = np.random.default_rng(0)
    for number in range(24):
        image = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
        write_picture(root / "images" / f"{number:02}.png", image)
        if number < 20:
            mask = (image[..., 0] > 127).astype(np.uint8)
            write_picture(root / "labels" / f"{number:02}.png", mask)
    (root / "classes.json").write_text(json.dumps({"classes": ["road", "car"]}))


@pytest.mark.parametrize("command", to_type(*PAGES))
def test_a_command_of_a_page_succeeds(reader: Typist, command: Command) -> None:
    carry_out(reader, command)


@pytest.mark.parametrize("command", to_type(TUTORIAL))
def test_a_command_of_the_tutorial_succeeds(newcomer: Typist, command: Command) -> None:
    carry_out(newcomer, command)


def test_the_tutorial_ends_with_what_it_promises(newcomer: Typist) -> None:
    found = {path.parent.name for path in (newcomer.folder / "predicted").rglob("*.png")}
    assert found == {"masks", "colors", "overlays"}
    assert (newcomer.folder / "mask.png").is_file()
    (code,) = [it.text for it in code_blocks(read(TUTORIAL)) if it.language == "python"]
    assert "(1, 19, 128, 256)" in newcomer.in_shell(f"python - <<'END'\n{code}\nEND")


def test_what_is_not_run_stands_on_a_page() -> None:
    recipes = [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / RECIPES).glob("*.md")]
    there = {it.text for name in [*PAGES, TUTORIAL, *recipes] for it in commands(read(name))}
    assert set(NOT_RUN) <= there


def test_no_page_names_a_program_in_a_way_that_is_not_seen() -> None:
    # A block with another language, or a $ before the command, would not be carried out.
    for name in [*PAGES, TUTORIAL]:
        for block in code_blocks(read(name)):
            if not block.is_shell and block.language not in ("python", "diff"):
                lines = [line.strip("$> ") for line in block.text.splitlines()]
                assert not [it for it in lines if it.startswith(("mlflow ", "make ", "python "))]


PAGE = """\
text

    make demo    # a comment
    # nothing

    A=1 python -m selftrain \\
        main

    not a command

```bash
python - <<'END'
x = 1  # kept
END
selftrain "a # b"
```

```text
make nothing
```
"""


def test_commands_are_taken_from_indented_and_fenced_blocks() -> None:
    assert [(it.line, it.text) for it in commands(PAGE)] == [
        (3, "make demo"),
        (6, "A=1 python -m selftrain main"),
        (12, "python - <<'END'\nx = 1  # kept\nEND"),
        (15, 'selftrain "a # b"'),
    ]


def test_sizes_win_over_the_page_and_the_page_over_the_rest() -> None:
    words = shorten(["student", "--student.epochs=9", "--a=2"], {"a": 1, "data.x": 1})
    assert words[:3] == ["student", "--a=1", "--data.x=1"]
    assert words.index("--a=2") < words.index("--student.epochs=1")
    other = shorten(["student", "--benchmark", "folder"], {"a": 1, "data.x": 1})
    assert other[:3] == ["student", "--a=1", "--benchmark"]
    assert shorten(["sync"], {"a": 1}) == ["sync"]
