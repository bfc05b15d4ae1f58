"""The commands that there are: what each is for, an example, and which knobs it reads."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the help says of a command."""

    group: str
    line: str
    example: str
    """Words that can follow `python -m selftrain`; names in capitals stand for one's own."""
    reads: tuple[str, ...] = ()
    """Sections of the config that it reads beside `machine`, its own first."""


_TEACHER = ("data", "teacher")
_LABELS = ("pseudo_label", *_TEACHER)
_STUDENT = ("student", "rounds", *_LABELS)

COMMANDS: Mapping[str, Command] = {
    "doctor": Command(
        group="look",
        line="Check packages, GPU, disk, tracking store and data in seconds; change nothing.",
        example="doctor --benchmark camvid_small --machine.data_root DIR",
        reads=("data",),
    ),
    "prepare": Command(
        group="look",
        line="Draw or read the benchmark's data, check them and summarise them.",
        example="prepare --benchmark folder --machine.data_root DIR",
        reads=("prepare", "data"),
    ),
    "main": Command(
        group="train",
        line="Train teacher, student and control, evaluate all three and compare them.",
        example="main --benchmark camvid_small",
        reads=(*_STUDENT, "evaluate"),
    ),
    "teacher": Command(
        group="train",
        line="Train the teacher on the labelled images.",
        example="teacher --teacher.epochs 20 --data.labelled_fraction 1/4",
        reads=("teacher", "data"),
    ),
    "student": Command(
        group="train",
        line="Train the student on real and pseudo labels.",
        example="student --benchmark camvid_small --student.optim.lr 0.002",
        reads=_STUDENT,
    ),
    "finetune": Command(
        group="train",
        line="Train on a benchmark's labels, from any teacher or student.",
        example="finetune --benchmark scenes_abroad --start RUN",
        reads=("finetune", "data"),
    ),
    "pseudo_label": Command(
        group="label",
        line="Label the unlabelled pool with the teacher.",
        example="pseudo_label --teacher RUN --pool DIR",
        reads=_LABELS,
    ),
    "inspect_pseudo_labels": Command(
        group="label",
        line="Show what a set of pseudo labels holds, and draw one of its images.",
        example="inspect_pseudo_labels --labels RUN --image NAME",
        reads=("inspect_pseudo_labels", "data"),
    ),
    "lineage": Command(
        group="look after",
        line="Show from what a run was made: labels, teachers, data; as text and as a figure.",
        example="lineage RUN --output FILE.png",
        reads=("lineage",),
    ),
    "evaluate": Command(
        group="measure",
        line="Measure a model on the evaluation splits.",
        example="evaluate --model RUN",
        reads=("evaluate", *_STUDENT),
    ),
    "study": Command(
        group="search",
        line="Run a table or figure of the paper: its arms, with several seeds.",
        example="study --name table2_pseudo_ratio --seeds 3",
        reads=("study", *_STUDENT, "finetune", "evaluate"),
    ),
    "sweep": Command(
        group="search",
        line="Search better knobs by Optuna on dev, and train the best with fresh seeds.",
        example="sweep --trials 32",
        reads=("sweep", *_STUDENT, "evaluate"),
    ),
    "predict": Command(
        group="use",
        line="Write masks and overlays for pictures, or an overlay video.",
        example="predict --images DIR --model RUN --output DIR2",
        reads=("predict",),
    ),
    "export": Command(
        group="use",
        line="Write a network as a file that other programs run: ONNX, torch.export.",
        example="export --model RUN --output DIR",
        reads=("export",),
    ),
    "sync": Command(
        group="look after",
        line="Deliver what waits for the tracking store.",
        example="sync",
    ),
    "completion": Command(
        group="look after",
        line="Print what a shell needs to complete the words of `selftrain`: bash, zsh, fish.",
        example="completion bash",
    ),
}
"""In the order of the help, group by group."""

GROUPS: Mapping[str, str] = {
    "look": "look at the machine and the data",
    "train": "train",
    "label": "label",
    "measure": "measure",
    "search": "search, and make tables (python -m analysis.report draws them)",
    "use": "use a network",
    "look after": "look after it",
}

EXAMPLES = (
    ("see that all is there", "doctor"),
    ("the whole pipeline on drawn scenes, on a CPU", "main"),
    ("one knob changed: only the student is trained anew", "student --student.optim.lr 0.002"),
    ("labels for one's own pictures", "predict --images DIR --model RUN --output DIR2"),
)
"""What for, and words after `python -m selftrain`."""
