"""What is known of the licences of data and weights: their kind, and where they stand.

No advice: what a network may be used for follows from the licences of all that it was made from,
and those are their owners' to state.
"""

DATA = {
    "scenes": "drawn by this program: Apache-2.0, like the project",
    "camvid": "CamVid: for research; see its page at the University of Cambridge",
    "camvid_original": "CamVid: for research; see its page at the University of Cambridge",
    "cityscapes": "Cityscapes: its own terms of use, non-commercial; see "
    "https://www.cityscapes-dataset.com/license/",
    "mapillary": "Mapillary Vistas: its own licence, research use; see "
    "https://www.mapillary.com/dataset/vistas",
    "bdd100k": "BDD100K: its own licence of the University of California, free for education, "
    "research and not-for-profit purposes; see https://doc.bdd100k.com/license.html",
    "kitti": "KITTI: CC BY-NC-SA 3.0; see https://www.cvlibs.net/datasets/kitti/",
    "folder": "pictures and labels of a folder of the user's: whoever gave them says",
}
"""Data set (data.dataset, data.pool) -> its licence."""
TORCHVISION = (
    "of torchvision, trained on ImageNet: the code is BSD-3-Clause, and the weights may be "
    "under terms that follow from their training data, by torchvision's own word; ImageNet is "
    "for non-commercial research and education, see https://www.image-net.org/download.php"
)


def of_data(dataset: str, pool: str) -> list[str]:
    """Return what is known of the licences of a training's data.

    Args:
        dataset: Of the labelled images, as in data.dataset.
        pool: Where unlabelled images came from, as in data.pool; "": nowhere.
    """
    # The rest of train, and Cityscapes' own further images, are the data set's.
    others = [name for name in pool.split("+") if name not in ("", "rest", "train_extra")]
    return [DATA.get(name, f"{name}: not known here") for name in dict.fromkeys([dataset, *others])]


def of_weights(backbone_weights: str) -> str | None:
    """Return what is known of the licence of the weights that a backbone has started with.

    Args:
        backbone_weights: As in network.backbone_weights. What comes from another run has that
            run's data as its source, of which this says nothing.

    Returns:
        None: there were none, or those of another run.
    """
    if backbone_weights == "none" or backbone_weights.startswith(("runs:/", "models:/")):
        return None
    if "/" in backbone_weights or "." in backbone_weights:
        name = backbone_weights.rpartition("/")[2]
        if "imagenet" in name.lower():
            return f"the file {name}, by its name trained on ImageNet: whoever published it says"
        return f"the file {name}: whoever published it says"
    return f"{backbone_weights} {TORCHVISION}"
