"""Settings of a run that trains a segmentation model, and the configuration class of each task."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from segcoord.config.base import TaskConfig, require, split_parts
from segcoord.config.classes import ClassConfig as ClassConfig
from segcoord.config.classes import parse_classes
from segcoord.config.classification import ClassificationConfig
from segcoord.config.classification import ClassifierConfig as ClassifierConfig
from segcoord.config.classification import ImageFolderConfig as ImageFolderConfig
from segcoord.config.decoders import STRIDES, decoder_settings
from segcoord.config.optim import OptimConfig
from segcoord.utils.errors import UserError


@dataclass
class ModelConfig:
    """Encoder and decoder."""

    encoder: str = "mobilenetv2_ca_100"
    """timm name of the encoder; segcoord's own are named FAMILY_ATTENTION_WIDTH."""
    reduction: int | None = None
    """Channel reduction ratio of the attention blocks; null for the default of each."""
    output_stride: int | None = None
    """Ratio of the image size to the size of the encoder's last feature map: 16 or 8; for pan 16
    or 32; for unet, fpn and light 32; null for the first of these."""
    decoder: str = "deeplabv3"
    """deeplabv3, deeplabv3plus, unet, fpn, pan or light."""
    atrous_rates: list[int] | None = None
    """Three dilation rates of the ASPP; null for 6, 12, 18 at output stride 16 and twice that at
    8."""
    aspp_dropout: float | None = None
    """Dropout probability after the projection of the ASPP; default: 0.1."""
    encoder_weights: str | None = None
    """Initial weights: imagenet (pretrained), the path of a file, or null for random."""

    def __post_init__(self) -> None:
        if self.output_stride is None and self.decoder in STRIDES:
            self.output_stride = STRIDES[self.decoder][0]

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        ratio = self.reduction
        require(ratio is None or ratio > 0, "model.reduction", ratio, "at least 1, or null")
        try:
            decoder_settings(self.decoder, self.output_stride, self.atrous_rates, self.aspp_dropout)
        except UserError as error:
            raise UserError(f"model.{error}") from None
        dropout = self.aspp_dropout
        ok = dropout is None or 0 <= dropout < 1
        require(ok, "model.aspp_dropout", dropout, "0 up to below 1, or null")


@dataclass
class DataConfig:
    """Dataset and augmentation."""

    layout: Literal["voc", "cityscapes", "folder"]
    """Folder structure: voc, cityscapes, or folder (images and masks that pair by name)."""
    root: str
    """Folder of the dataset; with voc the folder that holds JPEGImages, or one above it."""
    classes: list | str | None = None
    """Classes of a custom dataset with layout folder or voc: a list of names, a list of {name,
    color, id}, or the path of a text file with one name per line. One class without an id is
    binary segmentation. Default: the layout's classes."""
    void_ids: list[int] = field(default_factory=list)
    """Additional mask values to ignore (255 is, unless a class has it)."""
    images: str | None = None
    """Images in root: a folder, for example "{split}/photos", or file names that contain {name},
    for example "{split}/{name}_image.jpg"; default: "images/{split}", or "images" with val_fraction
    or lists, or the layout's folder."""
    masks: str | None = None
    """Masks in root, written like images, for example "{split}/{name}_mask.png"; default:
    "masks/{split}", or "masks" with val_fraction or lists, or the layout's folder."""
    lists: str | None = None
    """Files that list the samples of each split, for example "lists/{split}.txt", relative to
    root; one name or path per line, or the paths of an image and its mask."""
    val_fraction: float | None = None
    """Makes the splits: this fraction of the samples for validation, for example 0.2, the others
    for training."""
    split_seed: int = 0
    """Which samples val_fraction takes for validation."""
    skip_bad: bool = False
    """Leave out samples whose image or mask can't be used, and say how many."""
    exif: Literal["turn", "ignore", "error"] = "ignore"
    """What to do with photos turned by EXIF orientation: turn them as viewers show them, ignore it
    and use the stored pixels, or error."""
    train_split: str = "train"
    """Split to train on, or several joined with +, for example train+val; trainaug reads its masks
    from SegmentationClassAug."""
    val_split: str = "val"
    """Split to validate on; may be joined too."""
    crop_size: tuple[int, int] | int = (513, 513)
    """Height and width of a training crop in pixels, or one number for a square."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale of a training image."""
    flip: bool = True
    """Random horizontal flip."""
    rare_class_sampling: float = 0.0
    """Probability that a training crop is drawn around a pixel of a rare class, in any image with
    that class; 0 for crops anywhere in the image of the epoch."""
    color_jitter: float = 0.2
    """Strength of random brightness, contrast and saturation changes; 0 for none."""
    augmentation: str | None = None
    """YAML file of an albumentations pipeline, applied to image and mask after the crop."""
    workers: int = 2
    """Data loading processes; 0 to load in the main process."""
    pack: str = "auto"
    """auto to read the packs that `segcoord data pack` wrote, if any; off to read the image files;
    or the folder with the packs."""

    def __post_init__(self) -> None:
        self.classes = parse_classes(self.classes)
        if isinstance(self.crop_size, int):
            self.crop_size = (self.crop_size, self.crop_size)

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a training crop."""
        return self.crop_size

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        low, high = self.scale
        require(0 < low <= high, "data.scale", [low, high], "the smaller above 0, then the larger")
        jitter = self.color_jitter
        require(0 <= jitter < 1, "data.color_jitter", jitter, "0 up to below 1")
        rare = self.rare_class_sampling
        require(0 <= rare <= 1, "data.rare_class_sampling", rare, "0 to 1")
        crop = list(self.crop_size)
        require(min(crop) >= 1, "data.crop_size", crop, "at least 1 in height and width")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(bool(self.pack), "data.pack", repr(self.pack), "auto, off or a folder")
        self._check_split()
        ok = self.layout != "folder" or self.classes is not None
        expected = "a list of classes, for example [road, car], which layout folder needs"
        require(ok, "data.classes", None, expected)
        ok = self.layout != "cityscapes" or (self.classes is None and not self.void_ids)
        expected = (
            "null and [], because layout cityscapes defines its 19 classes; "
            "use layout voc or folder for a custom dataset"
        )
        require(ok, "data.classes and data.void_ids", "custom values", expected)

    def _check_split(self) -> None:
        """Raises UserError for settings of files and splits that can't work."""
        for key in ("images", "masks", "lists", "val_fraction"):
            found = getattr(self, key)
            ok = self.layout != "cityscapes" or found is None
            expected = "null, because layout cityscapes defines its folders and splits"
            require(ok, f"data.{key}", found, expected)
        fraction, seed = self.val_fraction, self.split_seed
        ok = fraction is None or 0 < fraction < 1
        require(ok, "data.val_fraction", fraction, "a number above 0 and below 1, or null")
        ok = fraction is None or self.lists is None
        require(ok, "data.lists", self.lists, "null with data.val_fraction: only one of them")
        ok = fraction is not None or seed == 0
        require(ok, "data.split_seed", seed, "0 without data.val_fraction, which it belongs to")
        train, val = split_parts(self.train_split), split_parts(self.val_split)
        ok = fraction is None or (len(val) == 1 and train != val)
        expected = "one name, other than data.train_split, with data.val_fraction"
        require(ok, "data.val_split", self.val_split, expected)
        ok = fraction is None or len({*train} - {*val}) == 1
        expected = "one name, or one joined with data.val_split by +, with data.val_fraction"
        require(ok, "data.train_split", self.train_split, expected)
        for key in ("images", "masks"):
            pattern = getattr(self, key)
            ok = fraction is None or "{split}" not in (pattern or "")
            expected = "a path without {split}, because data.val_fraction makes the splits"
            require(ok, f"data.{key}", repr(pattern), expected)
        ok = self.lists is None or "{split}" in self.lists or self.train_split == self.val_split
        expected = "a path that contains {split}, for example lists/{split}.txt"
        require(ok, "data.lists", repr(self.lists), expected)


class TeacherSettings(NamedTuple):
    """Settings of a distillation; the fields of `TrainConfig` that begin with teacher."""

    path: str
    weight: float
    temperature: float
    scales: list[float]


@dataclass
class TrainConfig(OptimConfig):
    """Optimization, devices and loss; see docs/recipes.md for when to use which."""

    encoder_lr_factor: float = 1.0
    """Multiplier of the encoder's learning rate."""
    class_weights: Literal["inverse", "enet", "median"] | list[float] | None = None
    """Class weights of the cross-entropy: inverse, enet or median to compute them from the training
    split, or one number per class; null for none."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy, as in PyTorch; 0 for none."""
    ohem_threshold: float | None = None
    """Online hard example mining: ignore pixels whose true class has at least this probability,
    for example 0.7; null to use all pixels."""
    ohem_min_kept: float | None = None
    """Smallest fraction of the labeled pixels that OHEM keeps, the hardest ones; null for 1/16;
    must be null without ohem_threshold."""
    dice_weight: float = 0.0
    """Weight of the Dice loss, which is added to the cross-entropy; 0 for none."""
    lovasz_weight: float = 0.0
    """Weight of the Lovasz-Softmax loss, which is added to the cross-entropy; 0 for none."""
    aux_weight: float = 0.0
    """Weight of the cross-entropy of an auxiliary head on the encoder's second-to-last feature
    map, for example 0.4; 0 for none. best.ckpt never contains the head."""
    freeze_batch_norm: bool = False
    """Freeze the running statistics of the encoder's batch norms."""
    teacher: str | None = None
    """Distillation: a checkpoint or exported folder of a model with the same classes, whose
    predictions are a further target of the loss; null for none."""
    teacher_weight: float | None = None
    """Weight of the distillation loss, which is added to the cross-entropy; null for 1; must be
    null without teacher."""
    teacher_temperature: float | None = None
    """Temperature that softens the probabilities of teacher and student, from 0.1 to 100; null for
    1; must be null without teacher."""
    teacher_scales: list[float] | None = None
    """Scales of the crop whose predictions by the teacher are averaged, from 0.25 to 4, for example
    [0.75, 1.0, 1.5]; null for [1.0]; must be null without teacher."""

    @property
    def ohem(self) -> tuple[float, float] | None:
        """Probability threshold and smallest fraction of pixels to keep; None without OHEM."""
        if self.ohem_threshold is None:
            return None
        return self.ohem_threshold, 1 / 16 if self.ohem_min_kept is None else self.ohem_min_kept

    @property
    def distillation(self) -> TeacherSettings | None:
        """The settings of the teacher with their defaults; None without a teacher."""
        if self.teacher is None:
            return None
        weight = 1.0 if self.teacher_weight is None else self.teacher_weight
        temperature = 1.0 if self.teacher_temperature is None else self.teacher_temperature
        return TeacherSettings(self.teacher, weight, temperature, self.teacher_scales or [1.0])

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        super().check()
        factor = self.encoder_lr_factor
        require(factor >= 0, "train.encoder_lr_factor", factor, "0 or more")
        weights = self.class_weights
        ok = not isinstance(weights, list) or (  # float32 holds these bounds with room to spare
            all(w == 0 or 1e-6 <= w <= 1e6 for w in weights) and any(weights)
        )
        expected = "numbers from 1e-6 to 1e6 or 0, not all of them 0"
        require(ok, "train.class_weights", weights, expected)
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "train.label_smoothing", smoothing, "0 up to below 1")
        threshold, kept = self.ohem_threshold, self.ohem_min_kept
        ok = threshold is None or 0 <= threshold < 1
        require(ok, "train.ohem_threshold", threshold, "0 up to below 1, or null")
        ok = kept is None or (threshold is not None and 0 < kept <= 1)
        expected = "above 0 up to 1 with train.ohem_threshold, null without"
        require(ok, "train.ohem_min_kept", kept, expected)
        for key in ("dice_weight", "lovasz_weight", "aux_weight"):
            weight = getattr(self, key)
            require(0 <= weight < float("inf"), f"train.{key}", weight, "0 or more")
        self._check_teacher()

    def _check_teacher(self) -> None:
        """Raises UserError for settings of the teacher that can't work."""
        expected = "the path of a checkpoint or of an exported folder, or null"
        require(self.teacher != "", "train.teacher", repr(self.teacher), expected)
        weight, temperature = self.teacher_weight, self.teacher_temperature
        ok = weight is None or (self.teacher is not None and 0 < weight < float("inf"))
        expected = "above 0 with train.teacher, null without"
        require(ok, "train.teacher_weight", weight, expected)
        ok = temperature is None or (self.teacher is not None and 0.1 <= temperature <= 100)
        expected = "from 0.1 to 100 with train.teacher, null without"
        require(ok, "train.teacher_temperature", temperature, expected)
        scales = self.teacher_scales
        ok = scales is None or (
            self.teacher is not None and bool(scales) and all(0.25 <= s <= 4 for s in scales)
        )
        expected = "numbers from 0.25 to 4 with train.teacher, null without"
        require(ok, "train.teacher_scales", scales, expected)


@dataclass
class SegmentationConfig(TaskConfig):
    """A run that trains a segmentation model."""

    task: ClassVar[str] = "segmentation"
    headline: ClassVar[str] = "miou"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        super().check()
        crop, stride = self.data.crop_size, self.model.output_stride
        expected = f"at least the output stride, {stride}, in height and width"
        require(min(crop) >= stride, "data.crop_size", list(crop), expected)


CONFIGS = {config.task: config for config in (SegmentationConfig, ClassificationConfig)}
GROUPS = ("model", "data", "train")
