"""Self-training for semantic segmentation (Zhu et al. 2020, arXiv 2004.14960)."""

import os

# albumentations asks the network for a newer version of itself when it is imported: slow
# without a network, and the newer one has another licence.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
