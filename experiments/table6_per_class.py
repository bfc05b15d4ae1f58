"""Table 6: the IoU of every class.

Teacher, the student at 1:7 with centroid sampling, and its equal-iteration control. The paper's
rows are those of Cityscapes' test server, from WideResNet38, several scales and flip, and VPLR's
pre-training: `-e evaluate -P evaluate.submission=true` writes the files for the server.

    mlflow run . -e study -P name=table6_per_class -P benchmark=scenes -P seeds=3

Cost: 9 times a teacher's training for each seed.

Paper: 82.7 on Cityscapes test; the row "Baseline" prints 81.4, the mean of its classes is 81.08.
"""

from selftrain.study import SELF_TRAINING, SMALL_SCENES, Arm, Study

STUDY = Study(
    title="Table 6. IoU of each class",
    arms={
        "teacher": Arm(stage="teacher"),
        "control": Arm(
            {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 7.0}, stage="control"
        ),
        "student": Arm(
            {"student.data.repeat": 0.5, "student.data.pseudo_ratio": 7.0}, control="control"
        ),
    },
    benchmarks=SELF_TRAINING,
    sizes={"scenes": SMALL_SCENES},
)
