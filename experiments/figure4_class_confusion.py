"""Figure 4: which confusions of classes does the student repair?

Teacher, student and its equal-iteration control; the pairs of classes that are confused less, and
the pictures on which that shows, are found by the analysis from the confusion matrices.

    mlflow run . -e study -P name=figure4_class_confusion -P benchmark=scenes

Cost: shared with table 6, whose networks these are.

Paper: tree and vegetation, road and sidewalk, wall and fence.
"""

from selftrain.study import Study

# Relative, because a wheel has these files in another place.
from .table6_per_class import STUDY as TABLE_6

STUDY = Study(
    title="Figure 4. Confusions that the student repairs",
    arms=TABLE_6.arms,
    benchmarks=TABLE_6.benchmarks,
    sizes=TABLE_6.sizes,
)
