"""How frequent classes are, in real and in pseudo labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selftrain.data.histogram import count_values
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample


def count_label(label: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Return the pixels of each class in a label map (H, W): (num_classes,)."""
    return count_values([label], [256])[:num_classes]


def count_pixels(samples: Sequence[Sample], reader: Reader) -> NDArray[np.int64]:
    """Return the labelled pixels of each class, (K,)."""
    total = np.zeros(len(reader.classes), dtype=np.int64)
    for sample in samples:
        total += count_label(reader.label(sample), len(total))
    return total


def frequency_table(
    names: Sequence[str], real: NDArray[np.int64], pseudo: NDArray[np.int64]
) -> pd.DataFrame:
    """Compare how frequent classes are in real and in pseudo labels (the deck's 360:1 -> 1000:1).

    Args:
        names: Of the K classes.
        real: (K,) labelled pixels.
        pseudo: (K,) pseudo-labelled pixels.

    Returns:
        A row a class: shares of all labelled pixels in percent, and the imbalance: how many
        pixels of the most frequent real class there are for one of this class.
    """
    largest = int(real.argmax())

    def imbalance(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(pixels[largest] / np.where(pixels > 0, pixels, np.nan))

    return pd.DataFrame(
        {
            "class": list(names),
            "real %": 100 * real / max(int(real.sum()), 1),
            "pseudo %": 100 * pseudo / max(int(pseudo.sum()), 1),
            f"real {names[largest]}:class": imbalance(real),
            f"pseudo {names[largest]}:class": imbalance(pseudo),
        }
    )
