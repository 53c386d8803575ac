"""The teacher of a distillation: a trained model whose predictions are a target of the loss."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segcoord.config.schema import TeacherSettings
from segcoord.data.labels import LabelSet
from segcoord.inference.exported import DESCRIPTION, sha256
from segcoord.inference.load import is_exported, load
from segcoord.inference.scales_and_tiles import scaled_size
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first


class Teacher:
    """Predicts training crops, in eval mode and without gradients.

    It is not part of the module that is trained, saved or averaged. It normalizes the images by its
    own mean and standard deviation.

    Args:
        settings: the file of the model and the scales of the crops.
        labels: classes of the model that is trained; the teacher must have the same.
        crop: (h, w) of the training crops.
        device: of the crops.

    Raises:
        UserError: the file can't be used, its classes differ, or it can't predict the crops.

    Attributes:
        model: a checkpoint's has its batch norms folded.
        sha256: of the file, or of the files in the folder.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        labels: LabelSet,
        crop: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.path, self.scales = Path(settings.path).expanduser(), settings.scales
        _reject_run(self.path)
        if device.type != "cpu" and is_exported(self.path):
            raise UserError(
                f"train.teacher: {self.path}: an exported model runs on the CPU, found device "
                f"{device}; give its checkpoint"
            )
        try:
            # Building a network draws random numbers, and its student begins as without a teacher.
            with torch.random.fork_rng(devices=[]):
                self.model = load(self.path, device)
        except UserError as error:
            raise UserError(f"train.teacher: {error}") from error
        _require_same_classes(self.path, self.model.labels, labels)
        self._require_crops(crop)
        self.sha256 = _sha256(self.path)

    @torch.compiler.disable  # the network of an export can't be compiled
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Predict crops.

        Args:
            images: (N, h, w, 3) uint8 RGB.

        Returns:
            (N, K, h, w) float32 logits; with several scales the logarithm of their mean
            probabilities.
        """
        size = images.shape[1:3]
        x = self.model.normalize(images)  # (N, 3, h, w)
        logits = [self._at_scale(x, scaled_size(size, scale)) for scale in self.scales]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([each.softmax(1) for each in logits]).mean(0).log()

    def _at_scale(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == x.shape[2:]:
            return self.model(x).float()
        scaled = F.interpolate(x, size, mode="bilinear", align_corners=False)
        logits = self.model(scaled).float()  # (N, K, *size)
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)

    def _require_crops(self, crop: tuple[int, int]) -> None:
        """Predict an empty crop, so that the first step doesn't fail."""
        fixed = self.model.fixed_size
        for scale in self.scales:
            height, width = scaled_size(crop, scale)
            if fixed is not None and (height > fixed[0] or width > fixed[1]):
                raise UserError(
                    f"train.teacher: {self.path}: exported for {fixed[0]}x{fixed[1]} (height x "
                    f"width), too small for crops of {height}x{width} (data.crop_size, "
                    "train.teacher_scales); export it without --size, or give its checkpoint"
                )
        try:
            self(torch.zeros(1, *crop, 3, dtype=torch.uint8, device=self.model.mean.device))
        except Exception as error:  # each network raises an error of its own
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"train.teacher: {self.path}: can't predict crops of {crop[0]}x{crop[1]} (height "
                f"x width) at scales {', '.join(f'{s:g}' for s in self.scales)}: {reason}"
            ) from error


def _reject_run(path: Path) -> None:
    """Raise UserError for the folder of a run, unless a model was exported to or shared in it."""
    best = path / "best.ckpt"
    if best.is_file() and is_exported(path) and not (path / DESCRIPTION).is_file():
        raise UserError(
            f"train.teacher: {path}: found the folder of a run, expected one of its checkpoints; "
            f"give {best}"
        )


def _require_same_classes(path: Path, found: LabelSet, expected: LabelSet) -> None:
    """Raise UserError unless names, order and colors are equal."""
    difference = _difference(found, expected)
    if difference:
        raise UserError(
            f"train.teacher: {path}: its classes differ from those of data.classes: {difference}. "
            "Both need the same names and colors in the same order; train a teacher with the same "
            "data.classes"
        )


def _difference(found: LabelSet, expected: LabelSet) -> str:
    """What differs between the classes of two models; empty if nothing does."""
    if {*found.names} != {*expected.names}:
        sides = {"the teacher": (found, expected), "data.classes": (expected, found)}
        parts = [f"found {len(found)}, expected {len(expected)}"]
        for side, (mine, other) in sides.items():
            if only := [name for name in mine.names if name not in other.names]:
                parts.append(f"only in {side}: {join_first(only, 4)}")
        return "; ".join(parts)
    for index, (theirs, own) in enumerate(zip(found.classes, expected.classes)):
        if theirs.name != own.name:
            return f"class {index} is {theirs.name!r}, expected {own.name!r}"
        if tuple(theirs.color) != tuple(own.color):
            return f"{own.name!r} has color {[*theirs.color]}, expected {[*own.color]}"
    return ""


def _sha256(path: Path) -> str:
    """Of a file, or of the names and contents of the files in a folder, without its model card."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()):
        if file.name != "README.md":
            digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()
