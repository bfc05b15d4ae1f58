"""What a label map's values mean: 0..K-1 is the train id of a class, one value is none."""

IGNORE_INDEX = 255
"""The label of pixels that neither train nor count."""
