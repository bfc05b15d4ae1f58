"""Every knob of every stage, once.

A knob's dotted path (`student.optim.lr`) is its command-line flag, its `-P` key under
`mlflow run`, the key of an ablation arm, the Optuna parameter and the MLflow param. Defaults
are the paper's setting on Cityscapes; `benchmarks.py` holds what other data need. Sources:
[deck] the paper's tables, [VPLR] its predecessor's recipe, [choice] ours (docs/method.md).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from selftrain.errors import InputError

POOLS = ("rest", "train_extra", "mapillary", "bdd100k", "folder")
"""Where unlabelled images may come from."""


def _require(ok: bool, knob: str, value: object, allowed: str) -> None:
    if not ok:
        raise InputError(f"{knob} = {value!r} is out of range: allowed is {allowed}.")


def _require_share(knob: str, value: float) -> None:
    _require(0 <= value <= 1, knob, value, "a share from 0 to 1")


def _require_positive(knob: str, value: float) -> None:
    _require(value > 0 and math.isfinite(value), knob, value, "a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """The street scenes that the program draws itself."""

    images: int = 1024
    """Images of the training pool; the labelled fraction is taken from them."""
    dev: int = 64
    """Images of the dev split, on which choices are made."""
    test: int = 128
    """Images of the test split, which `evaluate` reads."""
    style: Literal["city", "abroad"] = "city"
    """city has Cityscapes' 19 classes; abroad is another country with 27 (Figure 3)."""
    width: int = 256
    """Width in pixels, an even number from 64 to 2048; the height is half of it."""
    seed: int = 0
    """Decides every scene; another seed is another city."""

    def __post_init__(self) -> None:
        for name in ("images", "dev", "test"):  # beyond, splits would share scenes
            count = getattr(self, name)
            _require(1 <= count <= 1_000_000, name, count, "1 to 1,000,000")
        drawable = 64 <= self.width <= 2048 and self.width % 2 == 0
        _require(drawable, "width", self.width, "an even number from 64 to 2048")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images there are and which of them carry labels."""

    dataset: Literal[
        "scenes",
        "cityscapes",
        "mapillary",
        "camvid",
        "camvid_original",
        "kitti",
        "bdd100k",
        "folder",
    ] = "scenes"
    """Layout of the files below machine.data_root (docs/data.md); scenes are drawn there."""
    labelled_fraction: float = 0.125
    """Share of the training images whose labels are used: 1/16, 1/8, 1/4, 1/2 or 1; mapillary
    1/10, 1/5, 1/2 or 1; scenes and folder any above 0 to 1 [choice]."""
    shots: int = 0
    """Use the labels of so many images per class instead of a fraction; 0 is off [deck]."""
    mapillary_version: Literal["1.2", "2.0"] = "1.2"
    """Of mapillary: 1.2 has 65 classes, 2.0 has more; the pictures are the same [deck]."""
    fold: int = 0
    """Of kitti: which of its 5 folds is measured on, 0 to 4 [choice]."""
    train_on: Literal["train", "train+dev", "train+val"] = "train"
    """train keeps dev out, for choices; the others give it, and val, to the training [choice]."""
    pool: str = "rest"
    """Unlabelled images: rest (of train), train_extra, mapillary, bdd100k, folder; + joins."""
    scale: float = 1.0
    """Frames are resized by this factor when they are read; 1 is the files' own size."""
    short_side: int = 0
    """Frames with a longer shorter side, in pixels, are resized to it; 0 is no limit [choice]."""
    tile: int = 1024
    """Centroids are found tile by tile: side of a tile in pixels of the scaled frame [VPLR]."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)

    def __post_init__(self) -> None:
        _require(0 < self.scale <= 16, "scale", self.scale, "above 0 to 16")
        _require(self.tile >= 8, "tile", self.tile, "8 pixels or more")
        share = 0 < self.labelled_fraction <= 1
        _require(share, "labelled_fraction", self.labelled_fraction, "above 0 to 1")
        _require(self.shots >= 0, "shots", self.shots, "0 or more")
        _require(0 <= self.fold <= 4, "fold", self.fold, "0 to 4")
        limit = self.short_side == 0 or self.short_side >= 32
        _require(limit, "short_side", self.short_side, "0, or 32 pixels or more")
        parts = self.pool.split("+")
        known = set(parts) <= set(POOLS) and len(parts) == len(set(parts))
        _require(known, "pool", self.pool, f"some of {', '.join(POOLS)}, joined by +")
        elsewhere = set(parts) - {"rest", "train_extra"}  # at machine.pool_root, all of them
        _require(len(elsewhere) <= 1, "pool", self.pool, "one of mapillary, bdd100k and folder")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare` does besides looking at the data."""

    cache: Literal["none", "raw"] = "none"
    """raw writes the frames as memory maps, from which trainings then cut their crops."""
    export: Literal["none", "cityscapes"] = "none"
    """cityscapes draws scenes in Cityscapes' layout into machine.data_root, to rehearse with."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The segmentation network (Table 3)."""

    name: Literal["deeplabv3plus", "pspnet", "linear", "fast_scnn"] = "deeplabv3plus"
    """Architecture; linear is one convolution on the backbone's features [deck]."""
    backbone: Literal[
        "resnext50_32x4d",
        "resnet50",
        "resnet101",
        "mobilenet_v2",
        "wide_resnet38",
        "convnext_tiny",
        "swin_t",
    ] = "resnext50_32x4d"
    """What the head stands on; fast_scnn has none of its own and ignores it [deck]."""
    output_stride: Literal[8, 16, 32] = 8
    """Input size over size of the deepest features; of swin_t always 32 [VPLR]."""
    head_channels: int = 256
    """Width of deeplabv3plus's head; less is faster, for small networks on a CPU [VPLR]."""
    auxiliary: bool = False
    """Give pspnet a second classifier on earlier features while it trains [choice]."""
    backbone_weights: str = "IMAGENET1K_V2"
    """none, a torchvision weights name (IMAGENET1K_V1 for convnext_tiny and swin_t), a path to a
    .pth or .safetensors file, or another training as runs:/ID or models:/NAME@ALIAS [choice]."""

    def __post_init__(self) -> None:
        wide = 8 <= self.head_channels <= 65536
        _require(wide, "head_channels", self.head_channels, "8 to 65536")
        # What cannot be built is said before the first stage, not hours later before the student.
        second = not self.auxiliary or (
            self.name == "pspnet" and self.backbone.startswith(("resnet", "resnext"))
        )
        _require(second, "auxiliary", self.auxiliary, "true only for pspnet on a ResNet")
        if self.name == "fast_scnn":
            return
        strided = self.backbone != "swin_t" or self.output_stride == 32
        _require(strided, "output_stride", self.output_stride, "32 for swin_t")


@dataclass(frozen=True, kw_only=True)
class EpochConfig:
    """What an epoch is made of (Table 2)."""

    repeat: float = 1.0
    """Real crops of an epoch as a multiple of the labelled images [deck]."""
    pseudo_ratio: float = 0.0
    """Pseudo-labelled crops for each real crop; 0 trains on real labels alone [deck]."""

    def __post_init__(self) -> None:
        _require(0 < self.repeat <= 1e6, "repeat", self.repeat, "above 0 to 1,000,000")
        in_range = 0 <= self.pseudo_ratio <= 1000
        _require(in_range, "pseudo_ratio", self.pseudo_ratio, "0 to 1000")


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which pseudo labels count; chosen when training, without labelling again."""

    rule: Literal["global", "cbst", "dars"] = "global"
    """global: one threshold. cbst: each class keeps its most confident share. dars: what is kept
    has the real labels' class frequencies. All keep to the threshold too [choice]."""
    threshold: float = 0.0
    """Pixels below this confidence are ignored; 0 keeps all [choice]."""
    share: float = 1.0
    """Of cbst and dars: share of the pseudo-labelled pixels to keep, above 0 to 1 [choice]."""
    images: Literal["all", "confidence", "agreement"] = "all"
    """Take the images with the highest mean confidence, or those on whose labels the teacher's
    answers agree best (pseudo_label.agreement; ST++) [choice]."""
    images_share: float = 1.0
    """Share of the images that is taken so, above 0 to 1 [choice]."""
    min_pixels: int = 0
    """Images of which fewer pixels are kept are left out [choice]."""

    def __post_init__(self) -> None:
        _require_share("threshold", self.threshold)
        for name in ("share", "images_share"):
            value = getattr(self, name)
            _require(0 < value <= 1, name, value, "above 0 to 1")
        _require(self.min_pixels >= 0, "min_pixels", self.min_pixels, "0 or more")
        # A knob that is set and does nothing would be taken for one that was tried.
        by_class = self.rule != "global" or self.share == 1
        _require(by_class, "share", self.share, "1 with rule = global; see threshold")
        cuts = self.rule == "global" or self.share < 1
        _require(cuts, "share", self.share, f"below 1 with rule = {self.rule}")
        by_image = self.images != "all" or self.images_share == 1
        _require(by_image, "images_share", self.images_share, "1 with images = all")


@dataclass(frozen=True, kw_only=True)
class StrongConfig:
    """Further changes of pseudo-labelled crops alone; all are off in the paper."""

    jitter: float = 0.0
    """Strength of a further jitter of the colours, 0 to 0.5; 0 is off [choice]."""
    gray: float = 0.0
    """Probability that a crop loses its colours [choice]."""
    blur: float = 0.0
    """Probability of a further Gaussian blur, sigma 0.15 to 1.3 pixels [choice]."""
    cutout: float = 0.0
    """Probability that a rectangle of a crop is blotted out, its label with it [choice]."""
    cutmix: float = 0.0
    """Probability that a rectangle of another pseudo-labelled crop is pasted over [choice]."""
    classmix: float = 0.0
    """Probability that half the classes of another pseudo-labelled crop are pasted over."""

    def __post_init__(self) -> None:
        _require(0 <= self.jitter <= 0.5, "jitter", self.jitter, "0 to 0.5")
        for name in ("gray", "blur", "cutout", "cutmix", "classmix"):
            _require_share(name, getattr(self, name))
        mixes = self.cutmix + self.classmix
        _require(mixes <= 1, "classmix", self.classmix, "at most 1 - cutmix: a crop is mixed once")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Centroid sampling (Section 3.2)."""

    centroid_fraction: float = 0.5
    """Share of the crops placed on class centroids, dealt evenly to the classes [VPLR]."""
    scope: Literal["both", "real", "pseudo"] = "both"
    """Which of a student's crops are placed so: real ones, pseudo-labelled ones, both [deck]."""

    def __post_init__(self) -> None:
        _require_share("centroid_fraction", self.centroid_fraction)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Crop size and how it changes over the epochs (Section 3.3, Table 4)."""

    size: int = 800
    """Side of the full crop in pixels [deck]."""
    schedule: Literal[
        "constant", "coarse2fine", "fine2coarse", "coarse2fine_plus", "fine2coarse_plus"
    ] = "constant"
    """Crop size over the epochs [deck]."""
    warm_up: float = 0.0
    """Share of the epochs at the full size first; the paper's 20 of 180 is 0.111 [deck]."""
    cycles: int = 3
    """Ramps of the two `_plus` schedules [choice]."""
    constant_pixels: bool = False
    """Grow batch and learning rate as the crop shrinks, so that a step sees as many pixels."""

    def __post_init__(self) -> None:
        _require(32 <= self.size <= 16384, "size", self.size, "32 to 16384 pixels")
        _require_share("warm_up", self.warm_up)
        _require(1 <= self.cycles <= 10_000, "cycles", self.cycles, "1 to 10,000")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of a crop, image and label together."""

    scale_min: float = 0.5
    """Smallest random scale [VPLR]."""
    scale_max: float = 2.0
    """Largest random scale [VPLR]."""
    flip: float = 0.5
    """Probability of a horizontal flip [VPLR]."""
    jitter: float = 0.25
    """Strength of the jitter of brightness, contrast, saturation and hue; 0 is off [VPLR]."""
    blur: float = 0.5
    """Probability of a Gaussian blur, sigma 0.15 to 1.3 pixels [VPLR]."""
    on_device: bool = False
    """Jitter and blur on the device instead of in the loader, with other draws; on a CPU this
    is many times slower [choice]."""

    def __post_init__(self) -> None:
        ordered = 0 < self.scale_min <= self.scale_max <= 16
        text = "0 < scale_min <= scale_max <= 16"
        _require(ordered, "scale_min", self.scale_min, text)
        _require_share("flip", self.flip)
        _require_share("blur", self.blur)
        _require(0 <= self.jitter <= 0.5, "jitter", self.jitter, "0 to 0.5")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised; pixels without a label never count."""

    name: Literal["cross_entropy", "ohem", "boundary"] = "cross_entropy"
    """ohem keeps the hard pixels, boundary accepts any class of a border's neighbourhood [VPLR]."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, 0 to below 1 [choice]."""
    ohem_threshold: float = 0.7
    """Pixels whose class has a higher probability are easy, and left out by ohem [choice]."""
    ohem_kept: float = 0.0625
    """Least share of an image's labelled pixels that ohem keeps, the hardest [choice]."""
    class_weights: Literal["none", "inverse_sqrt", "median"] = "none"
    """Weights of the classes from how frequent they are in the real labels [choice]."""
    auxiliary_weight: float = 0.4
    """Weight of the second classifier's loss, where network.auxiliary is on [choice]."""
    confidence_gamma: float = 0.0
    """Pseudo-labelled pixels count confidence ** gamma; 0 counts all alike [choice]."""
    soft: bool = False
    """Learn from the teacher's three likeliest classes of a pixel, not from the first alone; needs
    pseudo_label.soft [choice]."""

    def __post_init__(self) -> None:
        smooths = 0 <= self.label_smoothing < 1
        _require(smooths, "label_smoothing", self.label_smoothing, "0 to below 1")
        _require_share("ohem_threshold", self.ohem_threshold)
        _require_share("ohem_kept", self.ohem_kept)
        positive = 0 <= self.auxiliary_weight <= 10
        _require(positive, "auxiliary_weight", self.auxiliary_weight, "0 to 10")
        positive = 0 <= self.confidence_gamma <= 100
        _require(positive, "confidence_gamma", self.confidence_gamma, "0 to 100")
        plain = self.name == "cross_entropy" and self.label_smoothing == 0
        text = "false with ohem, boundary or label_smoothing"
        _require(plain or not self.soft, "soft", self.soft, text)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer, with a polynomial decay of its learning rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd, the paper's, or adamw, which gets further in a short training from scratch [VPLR]."""
    lr: float = 0.01
    """Learning rate at the first step, for batch_size crops: scale it with batch_size. A batch
    grown by constant_pixels raises it alike, processes and accumulate do not [choice]."""
    momentum: float = 0.9
    """Of sgd; of adamw its first beta [VPLR]."""
    weight_decay: float = 1e-4
    """Decay of all weights, coupled in sgd and decoupled in adamw [VPLR]."""
    power: float = 0.9
    """lr falls as (1 - step / steps) ** power [VPLR]."""
    batch_size: int = 16
    """Crops of a step, over all processes [VPLR]."""
    accumulate: int = 1
    """Parts into which a process cuts its share of a step to save memory [choice]."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is then the result; 0 is off. In the first
    steps it is smaller: (1 + n) / (10 + n) at step n [choice]."""
    clip_norm: float = 0.0
    """Longer gradients are shortened to this norm; 0 is off [choice]."""

    def __post_init__(self) -> None:
        _require_positive("lr", self.lr)
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "0 to below 1")
        decays = 0 <= self.weight_decay < 1
        _require(decays, "weight_decay", self.weight_decay, "0 to below 1")
        _require_positive("power", self.power)
        several = 2 <= self.batch_size <= 65536
        _require(several, "batch_size", self.batch_size, "2 to 65536")
        _require(self.accumulate >= 1, "accumulate", self.accumulate, "1 or more")
        _require(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        clips = self.clip_norm >= 0 and math.isfinite(self.clip_norm)
        _require(clips, "clip_norm", self.clip_norm, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: teacher, student and control are this with other values."""

    epochs: int = 180
    """How often the crops of an epoch are drawn and trained on; see data.repeat [VPLR]."""
    start: str = "none"
    """Run id of a training to go on from; its classifier is replaced if the classes differ."""
    seed: int = 0
    """Decides the initial weights, the crops and their augmentation."""
    eval_every: int = 10
    """Epochs between measurements on dev; the last epoch is always measured [choice]."""
    snapshots: int = 0
    """Networks kept on the way, evenly spaced, for pseudo_label.agreement [choice]."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: EpochConfig = field(default_factory=EpochConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    strong: StrongConfig = field(default_factory=StrongConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        _require(1 <= self.epochs <= 1_000_000, "epochs", self.epochs, "1 to 1,000,000")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require(self.eval_every >= 1, "eval_every", self.eval_every, "1 or more")
        fewer = 0 <= self.snapshots < self.epochs
        _require(fewer, "snapshots", self.snapshots, "0 to below epochs")


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a network is asked for labels."""

    scales: str = "1"
    """Scales of the image whose probabilities are averaged, with commas: 0.5,1,2."""
    flip: bool = False
    """Average with the mirrored image too."""
    window: int = 0
    """Side of square windows that slide over the image, in pixels; 0 takes it whole [VPLR]."""
    overlap: float = 1 / 3
    """Share of a window that lies in its neighbour, 0 to below 1 [VPLR]."""

    def __post_init__(self) -> None:
        sided = self.window == 0 or self.window >= 32
        _require(sided, "window", self.window, "0, or 32 pixels or more")
        _require(0 <= self.overlap < 1, "overlap", self.overlap, "0 to below 1")
        try:
            valid = all(0.1 <= scale <= 4 for scale in self.scale_list())
        except ValueError:
            valid = False
        _require(valid, "scales", self.scales, "numbers from 0.1 to 4 with commas between")

    def scale_list(self) -> list[float]:
        """Return the scales as numbers."""
        return [float(part) for part in self.scales.split(",")]


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """How the teacher labels the pool."""

    teacher: str = "none"
    """Run id or models:/NAME@ALIAS of the teacher, or of several joined by +, whose probabilities
    are averaged; none: train or find the teacher that the config describes."""
    inference: InferenceConfig = field(default_factory=lambda: InferenceConfig(flip=True))
    agreement: Literal["none", "flip", "snapshots"] = "none"
    """Record how far other answers agree with the labels: those for the mirrored image, or of
    teacher.snapshots (ST++). Those of several teachers always are [choice]."""
    confidence: Literal["full", "quarter"] = "full"
    """Resolution of the confidence maps; quarter takes an eighth of the space [choice]."""
    soft: bool = False
    """Keep the three likeliest classes at a quarter of the resolution too, for loss.soft."""
    shard_size: int = 256
    """Images of a shard, one file [choice]."""
    shard: str = "all"
    """all; K/N labels every N-th shard from the K-th on, as one of N jobs on one machine.outputs;
    merge joins what they have labelled."""
    allow_labelled: bool = False
    """Let the pool hold images whose labels the teacher has learned."""
    hood: bool = False
    """In Cityscapes' frames, train_extra's too, ignore where the camera's car is seen [choice]."""
    measure: bool = False
    """Open the pool's hidden labels, if it has any, to measure the pseudo labels."""

    def __post_init__(self) -> None:
        _require(self.shard_size >= 1, "shard_size", self.shard_size, "1 or more")
        try:
            valid = self.shard == "merge" or self.job() is not None
        except ValueError:
            valid = False
        text = "all, merge, or K/N with K from 1 to N, as in 3/16"
        _require(valid, "shard", self.shard, text)

    def job(self) -> tuple[int, int] | None:
        """Return (k, n) of the k-th of n jobs, k from 0; (0, 1) for all, None to merge."""
        if self.shard in ("all", "merge"):
            return (0, 1) if self.shard == "all" else None
        number, jobs = (int(part) for part in self.shard.split("/"))
        if not 1 <= number <= jobs:
            raise ValueError(self.shard)
        return number - 1, jobs


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """A look into a set of pseudo labels."""

    labels: str = "none"
    """Run id, runs:/ID/product, or the folder of a set of pseudo labels."""
    image: str = "none"
    """Name of an image to draw: the label as a palette PNG, the label over it, the confidence."""
    output: Path = Path("inspected")
    """Folder for what is drawn."""
    verify: bool = False
    """Fetch and read all of the set, not the image's shard alone, and compare its digests."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured on the evaluation splits."""

    model: str = "none"
    """Run id of a training; none: the student that the config describes."""
    submission: bool = False
    """Label Cityscapes' test images too, and zip them for the test server."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Labels for a folder of pictures, a picture, or a video."""

    images: Path = Path("images")
    """Folder with pictures of any sizes, which is searched with its subfolders; or a picture; or a
    video (mp4, mov, avi, mkv, webm)."""
    model: str = "none"
    """runs:/ID, models:/NAME@ALIAS, a run id, or a folder with weights.safetensors."""
    output: Path = Path("predictions")
    """Folder for the masks/, colors/ and overlays/ that are written."""
    video_masks: bool = False
    """Write the class ids of each frame of a video too, besides the video of overlays."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A network as a file that other programs run."""

    model: str = "none"
    """runs:/ID, models:/NAME@ALIAS, a run id, or a folder with weights.safetensors."""
    output: Path = Path("exported")
    """Folder for the files that are written."""
    format: Literal["onnx", "torch_export", "both"] = "onnx"
    """onnx for onnxruntime and others, torch_export for torch without this project's code."""
    height: int = 512
    """Height of the images that the network will be given, in pixels."""
    width: int = 1024
    """Width of these images, in pixels."""
    dynamic: bool = False
    """Take images of other sizes too, where the network allows it."""

    def __post_init__(self) -> None:
        for side in ("height", "width"):
            length = getattr(self, side)
            _require(32 <= length <= 16384, side, length, "32 to 16384 pixels")


@dataclass(frozen=True, kw_only=True)
class LineageConfig:
    """From what a product was made, as text and as a figure."""

    run: str = "none"
    """Run id of a stage, runs:/ID, or models:/NAME@ALIAS; may stand without the knob's name."""
    output: str = "none"
    """File for the figure, .png, .svg or .pdf; none: text alone."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A table or figure of the paper: a file of experiments/."""

    name: str = "none"
    """Name of the file, without .py."""
    seeds: int = 1
    """Seeds with which every arm is trained: first_seed and those after it."""
    first_seed: int = 0
    """Several workers may share a study by its seeds."""
    arms: str = "all"
    """all, or the names of some arms with semicolons between."""
    source_root: str = "none"
    """Files of the benchmark from whose networks the study fine-tunes; none: where that one's
    machine.data_root says."""

    def __post_init__(self) -> None:
        _require(self.seeds >= 1, "seeds", self.seeds, "1 or more")
        _require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search for better knobs by Optuna, on dev."""

    name: str = "sweep_student"
    """File of experiments/ that holds the space, without .py."""
    trials: int = 32
    """Trials of the study in the end, those of earlier starts and of other workers included."""
    timeout: int = 0
    """Seconds after which no new trial is begun; 0 is no limit."""
    storage: str = "journal"
    """journal: a file below machine.outputs, for workers of one machine; or a database's URI, as in
    postgresql://user@host/name, for workers of many."""
    objective: Literal["dev", "dev_and_time"] = "dev"
    """dev: the highest dev mIoU. dev_and_time: the front of dev mIoU against training time."""
    retrain: int = 3
    """Fresh seeds with which the best config is trained once more before it enters a table."""
    seed: int = 0
    """Decides what the sampler draws."""

    def __post_init__(self) -> None:
        _require(self.trials >= 1, "trials", self.trials, "1 or more")
        for name in ("timeout", "retrain", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Where things lie and what they run on: never part of a key."""

    data_root: Path = Path("data")
    """Folder of the data set's files; scenes are drawn into it."""
    pool_root: Path = Path("pool")
    """Folder of the pool's files, where data.pool is mapillary, bdd100k or folder."""
    outputs: Path = Path("outputs")
    """Folder for the stages' products, one folder a key."""
    tracking_patience: int = 60
    """Seconds to wait for a tracking store that went away, where nothing goes on without it."""
    register: bool = True
    """Register networks as versions of selftrain-BENCHMARK in MLflow (docs/registry.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    processes: int = 1
    """Processes that train and label together, one for each GPU; started by torchrun."""
    workers: int = -1
    """Loader processes; -1 takes one for each core but one, at most 8."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto computes in bf16 on GPUs that have it, and in fp32 elsewhere."""
    compile: bool = False
    """Compile the network by torch.compile: minutes at first, faster steps after."""
    checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    checkpoint_minutes: float = 10.0
    """A training's state is kept so often inside an epoch too; 0: at the ends of epochs alone."""

    def __post_init__(self) -> None:
        minutes = self.checkpoint_minutes
        is_time = minutes >= 0 and math.isfinite(minutes)
        _require(is_time, "checkpoint_minutes", minutes, "0 or more")
        _require(-1 <= self.workers <= 1024, "workers", self.workers, "-1 to 1024")
        _require(1 <= self.processes <= 1024, "processes", self.processes, "1 to 1024")
        patience = self.tracking_patience
        _require(0 <= patience <= 86400, "tracking_patience", patience, "0 to 86400")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole pipeline."""

    benchmark: str = "scenes"
    """Named set of values for everything below; benchmarks.py lists them."""
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    teacher: TrainConfig = field(default_factory=TrainConfig)
    pseudo_label: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    inspect_pseudo_labels: InspectConfig = field(default_factory=InspectConfig)
    student: TrainConfig = field(
        default_factory=lambda: TrainConfig(data=EpochConfig(repeat=0.5, pseudo_ratio=7.0))
    )
    rounds: int = 1
    """Students in a row: each is the next one's teacher while dev mIoU rises [deck]."""
    finetune: TrainConfig = field(default_factory=TrainConfig)
    """Training on the benchmark's labels from `finetune.start` (Table 5, Figure 3)."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    lineage: LineageConfig = field(default_factory=LineageConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        text = "0, for the teacher is there before its pseudo labels are"
        for who in ("teacher", "finetune"):
            ratio = getattr(self, who).data.pseudo_ratio
            _require(ratio == 0, f"{who}.data.pseudo_ratio", ratio, text)
        _require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        repeats = self.rounds == 1 or self.student.data.pseudo_ratio > 0
        _require(repeats, "rounds", self.rounds, "1 with student.data.pseudo_ratio = 0")
        if self.student.loss.soft and not self.pseudo_label.soft:
            raise InputError(
                "student.loss.soft = True needs the likeliest classes of each pixel: set "
                "pseudo_label.soft to true too."
            )
        self._require_agreement()
        for who in ("teacher", "finetune"):
            trained = getattr(self, who)
            plain = trained.select == SelectConfig() and trained.strong == StrongConfig()
            if not plain or trained.loss.soft:
                raise InputError(
                    f"{who}.select, {who}.strong and {who}.loss.soft are about pseudo labels, and "
                    f"{who} is trained without: set student's."
                )

    def _require_agreement(self) -> None:
        """Raise InputError unless what the student selects by is measured when labelling."""
        asks = self.student.data.pseudo_ratio > 0 and self.student.select.images == "agreement"
        several = "+" in self.pseudo_label.teacher
        if asks and self.pseudo_label.agreement == "none" and not several:
            raise InputError(
                "student.select.images = 'agreement' needs the agreement measured: set "
                "pseudo_label.agreement to flip or snapshots, or name several teachers."
            )
        self._require_snapshots()

    def _require_snapshots(self) -> None:
        """Raise InputError unless every teacher of this pipeline keeps what it is compared with."""
        own = self.pseudo_label.teacher == "none"
        if self.rounds > 1 and not own:
            raise InputError(
                f"rounds = {self.rounds} compares teacher and students on one dev split, but "
                f"pseudo_label.teacher = {self.pseudo_label.teacher} was trained elsewhere: set "
                "rounds to 1, or let the teacher be trained here."
            )
        if self.pseudo_label.agreement != "snapshots":
            return
        teachers = (["teacher"] if own else []) + (["student"] if self.rounds > 1 else [])
        for who in teachers:
            if getattr(self, who).snapshots == 0:
                raise InputError(
                    "pseudo_label.agreement = 'snapshots' compares networks that were kept on the "
                    f"way: set {who}.snapshots above 0."
                )
