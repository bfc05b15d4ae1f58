"""Beyond the paper: does a second or a third round help?

The student becomes the teacher of the next student as long as dev mIoU rises; the arms differ in
how many rounds they may take. The control sees as many crops as the last round's student.

    mlflow run . -e study -P name=rounds -P benchmark=scenes -P seeds=3

Cost: up to 9 times a teacher's training for each seed; rounds are shared between the arms.

Expected: a second round can hurt (method.md); that it is left out then is part of the result.
"""

from selftrain.knobs import Scalar
from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

RATIO: dict[str, Scalar] = {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 3.0}

STUDY = Study(
    title="Rounds of self-training",
    arms={
        "teacher": Arm(stage="teacher"),
        "real x2": Arm(RATIO, stage="control"),
        **{
            f"{rounds} round{'s' if rounds > 1 else ''}": Arm(
                {**RATIO, "rounds": rounds}, control="real x2"
            )
            for rounds in (1, 2, 3)
        },
    },
    benchmarks=SELF_TRAINING,
    sizes={"scenes": SMALL_SCENES},
)
