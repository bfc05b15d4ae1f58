"""Beyond the paper: do stronger changes of the pseudo-labelled crops make a better student?

The student at 1:3 with centroid sampling, plain, with strong colours, CutMix, ClassMix or cutout on
the pseudo-labelled crops alone, with colours and CutMix together, and with soft labels.

    mlflow run . -e study -P name=strong_augmentation -P benchmark=scenes -P seeds=3

Cost: 17 times a teacher's training for each seed; the pool is labelled twice, once with
soft labels.

Expected: with few labels, 5 points and more in the literature (method.md, field of ST++, UniMatch).
"""

from selftrain.knobs import Scalar
from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

COLORS: dict[str, Scalar] = {"strong.jitter": 0.5, "strong.gray": 0.2, "strong.blur": 0.5}
CHANGES: dict[str, dict[str, Scalar]] = {
    "plain": {},
    "colours": COLORS,
    "cutout": {"strong.cutout": 0.5},
    "CutMix": {"strong.cutmix": 0.5},
    "ClassMix": {"strong.classmix": 0.5},
    "colours and CutMix": {**COLORS, "strong.cutmix": 0.5},
}
RATIO: dict[str, Scalar] = {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 3.0}

STUDY = Study(
    title="Strong augmentation of pseudo-labelled crops",
    arms={
        "teacher": Arm(stage="teacher"),
        "real x2": Arm(RATIO, stage="control"),
        **{
            name: Arm(
                {**RATIO, **{f"student.{knob}": value for knob, value in change.items()}},
                control="real x2",
            )
            for name, change in CHANGES.items()
        },
        "soft labels": Arm(
            {**RATIO, "student.loss.soft": True, "pseudo_label.soft": True}, control="real x2"
        ),
    },
    benchmarks=SELF_TRAINING,
    sizes={"scenes": SMALL_SCENES},
)
