"""Beyond the paper: which pseudo labels should count?

The student at 1:3 with centroid sampling learns from all of them, from those above a global
threshold, from each class's most confident share (CBST), or from a share with the real labels'
class frequencies (DARS), and with their loss weighted by confidence.

    mlflow run . -e study -P name=thresholds -P benchmark=scenes -P seeds=3

Cost: 17 times a teacher's training for each seed; the pool is labelled once.

Expected: on Cityscapes global thresholds do little (method.md); per-class ones rescue rare classes.
"""

from selftrain.knobs import Scalar
from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

RULES: dict[str, dict[str, Scalar]] = {
    "all": {},
    "above 0.5": {"select.threshold": 0.5},
    "above 0.9": {"select.threshold": 0.9},
    "CBST 0.5": {"select.rule": "cbst", "select.share": 0.5},
    "CBST 0.8": {"select.rule": "cbst", "select.share": 0.8},
    "DARS 0.5": {"select.rule": "dars", "select.share": 0.5},
    "confidence weighs": {"loss.confidence_gamma": 1.0},
}
RATIO: dict[str, Scalar] = {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 3.0}

STUDY = Study(
    title="Thresholds on pseudo labels",
    arms={
        "teacher": Arm(stage="teacher"),
        "real x2": Arm(RATIO, stage="control"),
        **{
            name: Arm(
                {**RATIO, **{f"student.{knob}": value for knob, value in rule.items()}},
                control="real x2",
            )
            for name, rule in RULES.items()
        },
    },
    benchmarks=SELF_TRAINING,
    sizes={"scenes": SMALL_SCENES},
)
