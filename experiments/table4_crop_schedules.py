"""Table 4: do smaller crops make training faster without making it worse?

The student at 1:7 with centroid sampling under five crop-size schedules, each without and with
a warm-up (the first 20 of 180 epochs at the full size). The time is that of the training steps.

    mlflow run . -e study -P name=table4_crop_schedules -P benchmark=scenes -P seeds=3

Cost: about 31 times a teacher's training for each seed. Times are comparable only if nothing else
runs.

Paper: coarse2fine_plus with warm-up keeps the baseline's 80.0 at 1.7 times its speed.
"""

from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

WARM_UP = 0.111
STUDIED = [  # schedule, mIoU in the paper without and with warm-up
    ("coarse2fine", 79.1, 79.6),
    ("fine2coarse", 79.4, 79.8),
    ("coarse2fine_plus", 79.5, 80.0),
    ("fine2coarse_plus", 79.4, 79.9),
]
CONTROL = "real x4"
ONE_TO_SEVEN = {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 7.0}


def student(schedule: str, warm_up: float, paper: float) -> Arm:
    """Return the student at 1:7 under a schedule."""
    return Arm(
        {
            **ONE_TO_SEVEN,
            "student.crop.schedule": schedule,
            "student.crop.warm_up": warm_up,
        },
        control=CONTROL,
        paper=paper,
    )


STUDY = Study(
    title="Table 4. Crop-size schedules",
    arms={
        CONTROL: Arm(ONE_TO_SEVEN, stage="control", paper=79.0),
        "baseline": student("constant", 0.0, 80.0),
        **{name: student(name, 0.0, paper) for name, paper, _ in STUDIED},
        **{f"{name}, warm-up": student(name, WARM_UP, paper) for name, _, paper in STUDIED},
    },
    benchmarks=SELF_TRAINING,
    sizes={
        "scenes": SMALL_SCENES,
        "cityscapes": {"data.pool": "train_extra+mapillary"},
    },
)
