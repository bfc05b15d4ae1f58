"""Beyond the paper: with how few labels does self-training pay?

Teacher, student at 1:3 with centroid sampling, and the student's equal-iteration control, with
1/16 to 1/2 of the training images labelled; the others are the pool, unless the benchmark has
another.

    mlflow run . -e study -P name=labelled_fraction -P benchmark=scenes -P seeds=3

Cost: 37 times the training of a teacher on 1/8 for each seed; crops follow the labelled images.

Expected: the fewer labels, the more there is to gain (ST++, UniMatch; method.md).
"""

from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

FRACTIONS = {"1/16": 0.0625, "1/8": 0.125, "1/4": 0.25, "1/2": 0.5}


def trio(name: str, fraction: float) -> dict[str, Arm]:
    """Return teacher, control and student of a fraction."""
    knobs = {
        "data.labelled_fraction": fraction,
        "student.data.repeat": 0.5,
        "student.data.pseudo_ratio": 3.0,
    }
    return {
        f"{name}, teacher": Arm(knobs, stage="teacher"),
        f"{name}, control": Arm(knobs, stage="control"),
        f"{name}, student": Arm(knobs, control=f"{name}, control"),
    }


STUDY = Study(
    title="Labelled fraction",
    arms={
        name: arm
        for key, fraction in FRACTIONS.items()
        for name, arm in trio(key, fraction).items()
    },
    benchmarks=SELF_TRAINING,
    sizes={
        "scenes": {**SMALL_SCENES, "data.scenes.images": 256},
    },
)
