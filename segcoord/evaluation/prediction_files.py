"""Find and read predictions of a split that another program wrote as masks. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcoord.data.file_pattern import MASK_SUFFIXES, FilePattern, list_files, nfc, parse_pattern
from segcoord.data.image_io import same_ratio
from segcoord.data.labels import VOID, LabelClass, LabelSet
from segcoord.data.mask_diagnosis import UNKNOWN_VALUES
from segcoord.data.mask_reader import decode_stored_mask, read_stored_mask, value_counts
from segcoord.data.split import Split
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

VALUES = ("ids", "indices")
"""What a mask value can be: the dataset's mask value of a class, or the position of the class."""

_IMAGE = "_leftImg8bit"


class PredictionFiles(NamedTuple):
    """The prediction of each sample, in the order of the split."""

    paths: list[Path]
    extra: int
    """Number of other masks in the folder."""
    folder: Path
    """The searched folder."""


def find_predictions(
    text: str, split: Split, layout: str, allow_extra: bool = False, option: str = "--predictions"
) -> PredictionFiles:
    """Find the prediction of each sample by name.

    The name is the path of the sample's image below its folder, without suffix, as
    `segcoord evaluate --masks` writes it. Names of Cityscapes may also be CITY_SEQUENCE_FRAME with
    any ending, in any folder.

    Args:
        text: a folder, or a pattern such as "out/{name}_pred.png".
        split: with masks.
        layout: value of data.layout.
        allow_extra: whether masks that belong to no sample are ignored.
        option: names `text` in messages.

    Raises:
        UserError: no such folder, a missing prediction, two for one sample, one of no sample, or
            one that is the ground truth itself.
    """
    if "{split}" in text:
        raise UserError(f"{option}: found {text!r}, expected a path without {{split}}")
    path = Path(text).expanduser().absolute()
    pattern = parse_pattern(option, path.as_posix(), Path("/"), "", MASK_SUFFIXES)
    folder = pattern.folder
    if not folder.is_dir():
        what = "is a file, expected a folder of masks" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what} ({option})")
    files = list_files(folder)
    find = _finder(split, layout)
    found: dict[int, str] = {}
    extra = []
    for file in files:
        if (name := pattern.name(file)) is None:
            continue
        if (index := find(name)) is None:
            extra.append(file)
        elif (first := found.setdefault(index, file)) != file:
            stem = split.samples[index].stem
            raise _two_files_error(pattern, (first, file), stem, find, option)
    missing = [split.samples[i].stem for i in range(len(split)) if i not in found]
    if missing:
        raise _missing_error(pattern, files, missing, len(split), extra, option)
    if extra and not allow_extra:
        belong, them = ("belongs", "it") if len(extra) == 1 else ("belong", "them")
        raise UserError(
            f"{join_first(extra, 3)} {belong} to no image of split {split.name!r}.",
            path=folder,
            remedy=f"Remove {them}, choose the split with --split, or ignore such files with "
            "--allow-extra.",
        )
    paths = [folder / found[index] for index in range(len(split))]
    for prediction, sample in zip(paths, split.samples):
        if prediction.exists() and prediction.samefile(sample.mask):
            remedy = f"Give the folder of the predictions with {option}."
            raise UserError("is the ground truth itself.", path=prediction, remedy=remedy)
    return PredictionFiles(paths, len(extra), folder)


def _finder(split: Split, layout: str) -> Callable[[str], int | None]:
    """A function from the name of a mask to the index of its sample."""
    by_name = {nfc(sample.stem): index for index, sample in enumerate(split.samples)}
    if layout != "cityscapes":
        return lambda name: by_name.get(nfc(name))
    by_name = {name.removesuffix(_IMAGE): index for name, index in by_name.items()}

    def find(name: str) -> int | None:
        frame = nfc(name).rpartition("/")[2]
        while frame and frame not in by_name:
            frame = frame.rpartition("_")[0]
        return by_name.get(frame)

    return find


def _two_files_error(
    pattern: FilePattern,
    files: Sequence[str],
    stem: str,
    find: Callable[[str], int | None],
    option: str,
) -> UserError:
    """The error for two files of the sample `stem`, with a pattern that selects one of them."""
    remedy = "Remove one of them"
    for file in reversed(files):
        name, suffix = pattern.name(file).rpartition("/")[2], Path(file).suffix
        frame = nfc(stem).rpartition("/")[2]
        frame = frame if name.startswith(frame) else frame.removesuffix(_IMAGE)
        ending = name.removeprefix(frame) + pattern.ending
        selection = replace(pattern, ending=ending, suffixes=(suffix.lower(),), has_name=True)
        names = [name for name in map(selection.name, files) if name is not None]
        if [name for name in names if find(name) is not None] == [selection.name(file)]:
            masks = f"{pattern.folder}/{pattern.prefix}{{name}}{ending}{suffix}"
            remedy += f', or select the masks by name, for example {option} "{masks}"'
            break
    else:
        if Path(files[0]).parent != Path(files[1]).parent:
            remedy += f", or give the folder of one of them with {option}"
    return UserError(
        f"{files[0]} and {files[1]} both belong to {stem}; expected one mask per image.",
        path=pattern.folder,
        remedy=f"{remedy}.",
    )


def _missing_error(
    pattern: FilePattern,
    files: Sequence[str],
    missing: Sequence[str],
    total: int,
    extra: Sequence[str],
    option: str,
) -> UserError:
    folder = pattern.folder
    expected = f"{pattern.prefix}{missing[0]}{pattern.ending}.png"
    lossy = (".jpg", ".jpeg", ".webp")
    stems = {nfc(name) for name in missing}
    jpegs = [f for f in files if f.lower().endswith(lossy) and nfc(f).rpartition(".")[0] in stems]
    found = extra or files
    if jpegs:
        problem = f"{jpegs[0]} has lossy compression, which changes class ids. Write PNGs."
    elif found:
        problem = (
            f"Found {join_first(found, 3)}. Names must be those of the images; select other names "
            f'with a pattern such as {option} "{folder}/{{name}}_pred.png".'
        )
    else:
        problem = f"Found no files. Give the folder that contains the masks with {option}."
    return UserError(
        f"{len(missing)} of {total} images have no prediction, the first {missing[0]}; expected "
        f"{expected}.",
        path=folder,
        remedy=problem,
    )


def index_labels(labels: LabelSet) -> LabelSet:
    """The same classes in masks of class indices, such as Cityscapes' train ids."""
    classes = [LabelClass(c.name, c.color, i) for i, c in enumerate(labels.classes)]
    return LabelSet(classes, colors_given=labels.colors_given, ids_given=labels.ids_given)


class Prediction(NamedTuple):
    """A mask as class indices."""

    indices: np.ndarray
    """(H, W) uint8, 255 for void."""
    values: frozenset[int]
    """The values in the file that are read as they are; empty if they are read by color."""


class PredictionReader:
    """Reads masks of class ids or indices.

    Args:
        labels: the classes of the dataset.
        values: one of `VALUES`; None for ids, unless the masks look like indices.
    """

    def __init__(self, labels: LabelSet, values: str | None = None) -> None:
        self.dataset, self.values = labels, values
        self.labels = index_labels(labels) if values == "indices" else labels

    def read(self, path: Path, size: tuple[int, int]) -> Prediction:
        """Read a mask of an image of size (H, W).

        Raises:
            UserError: unreadable, of another size, RGB, or with values that are neither a class nor
                void.
        """
        try:
            mask = read_stored_mask(path)
        except UserError as error:
            if error.kind not in ("damaged files", "files that are not images", "missing files"):
                raise
            raise UserError(error.found, path=path, remedy="Write it again.") from None
        if mask.is_color:
            raise UserError(
                "an RGB image, expected one class id per pixel (a gray or palette PNG).",
                path=path,
                remedy="If it shows the colors of data.classes, segcoord data ids converts it.",
            )
        if mask.pixels.shape != tuple(size):
            raise _size_error(path, mask.pixels.shape, size)
        try:
            decoded = decode_stored_mask(path, mask, self.labels)
        except UserError as error:
            if error.kind != UNKNOWN_VALUES:
                raise
            values = np.flatnonzero(value_counts(mask.pixels)).tolist()
            raise UserError(error.found, path=path, remedy=self._remedy(values)) from None
        if decoded.by_color:
            return Prediction(decoded.indices, frozenset())
        values = np.flatnonzero(value_counts(mask.pixels)).tolist()
        return Prediction(decoded.indices, frozenset(values))

    def _remedy(self, values: Sequence[int]) -> str:
        k = len(self.labels)
        table = self.dataset.table(max(values) + 1)
        if self.values == "indices":
            if all(table[v] < k or table[v] == VOID for v in values):
                return "They are mask values of the dataset: leave out --mask-values indices."
        elif {*values} - {VOID} <= {*range(k)}:
            return (
                f"If they are the positions of the {k} classes (such as Cityscapes' train ids), "
                "add --mask-values indices."
            )
        return (
            "Were the masks predicted with these classes (data.classes), in this order? Void is "
            f"{int(self.labels.to_value[VOID])}."
        )

    def require_unambiguous(self, values: frozenset[int], folder: str) -> None:
        """Raise UserError if masks that were read as ids may be indices of other classes.

        Cityscapes' train ids 0 to 18 are label ids too, most of them of void.

        Args:
            values: of all masks.
            folder: of the masks.
        """
        k, found = len(self.labels), sorted(values - {VOID})
        if self.values is not None or not {*found} <= {*range(k)}:
            return
        names = dict(enumerate(self.labels.names)) | {VOID: "void"}
        by_id = {value: int(index) for value, index in enumerate(self.dataset.table(k))}
        differ = [f"{v} ({names[by_id[v]]} or {names[v]})" for v in found if by_id[v] != v]
        if not differ:
            return
        raise UserError(
            "its masks hold only values that may be the dataset's mask values or the positions of "
            f"the classes, which differ for {join_first(differ, 4)}.",
            path=folder,
            remedy="If they are the positions of the classes (such as Cityscapes' train ids), add "
            "--mask-values indices; if they are the dataset's mask values, add --mask-values ids.",
        )


def _size_error(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> UserError:
    remedy = "Predict the original image."
    if found == tuple(size)[::-1]:
        remedy = (
            "Width and height are swapped: data.exif says whether images are turned by their EXIF "
            "orientation."
        )
    elif same_ratio(found, size):
        remedy = (
            "Resize the scores of the classes to the size of the image before the argmax, or the "
            "mask by nearest neighbor."
        )
    return UserError(
        f"the prediction is {found[1]}x{found[0]} (width x height), its image {size[1]}x{size[0]}; "
        "a score needs the original size.",
        path=path,
        remedy=remedy,
    )
