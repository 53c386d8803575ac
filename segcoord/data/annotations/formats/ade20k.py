"""ADE20K as in the Scene Parsing Challenge 2016: index PNGs of 150 classes.

Source: github.com/CSAILVision/sceneparsing. Value 0 of a mask is any other object, which the
challenge doesn't score.
"""

from collections import Counter
from functools import partial
from pathlib import Path

from segcoord.data.annotations.names import listed_classes, require_unique
from segcoord.data.annotations.paired_masks import pair_folders
from segcoord.data.annotations.records import Export, Format, MaskFile, Record
from segcoord.data.annotations.source_files import read_text
from segcoord.utils.errors import UserError

_TITLE = "ADE20K (Scene Parsing 2016)"
_FOLDER = "ADEChallengeData2016"  # in its archive
_NAMES = "objectInfo150.txt"
_SPLITS = ("training", "validation")
_FULL = (
    "found the full ADE20K, expected that of the Scene Parsing Challenge 2016. The full one has "
    "images/ADE/training/SCENE with masks *_seg.png, whose class is 256 * (red // 10) + green, "
    "over 3000 classes in index_ade20k.pkl, and no folder annotations."
)


def recognize(root: Path) -> str | None:
    """images/training, annotations/training and objectInfo150.txt, or the full ADE20K's index."""
    base = _base(root)
    if (base / _NAMES).is_file() and any(_has_split(base, split) for split in _SPLITS):
        return f"{_NAMES} with images and annotations of ADE20K"
    return "the index or the masks of the full ADE20K" if _is_full(root) else None


def read(root: Path) -> Export:
    """Read the training and the validation images.

    Raises:
        UserError: the full ADE20K, no class names, no image, a duplicate stem.
    """
    if _is_full(root):
        raise UserError(_FULL, path=root, remedy=f"Download {_FOLDER}.zip.")
    base = _base(root)
    classes = listed_classes(_names(base / _NAMES))
    splits = [split for split in _SPLITS if _has_split(base, split)]
    if not splits:
        raise UserError(
            "found neither images/training with annotations/training nor those of validation.",
            path=base,
        )
    skipped: Counter[str] = Counter()
    records = []
    for split in splits:
        images, masks = base / "images" / split, base / "annotations" / split
        records += pair_folders(base, split, images, masks, skipped)
    require_unique(records)
    names: dict[int, str | None] = {0: None, **{c.id: c.name for c in classes}}
    return Export(
        format=_TITLE,
        records=records,
        classes=classes,
        annotation=partial(_annotation, names),
        skipped=skipped,
    )


def _annotation(names: dict[int, str | None], record: Record, size: tuple[int, int]) -> MaskFile:
    """The mask of an image; `names` are those of its values, None for unlabelled."""
    return MaskFile(record.content, names)


def _names(path: Path) -> dict[int, str]:
    """The class names of objectInfo150.txt by number.

    Each line has tabs between Idx, Ratio, Train, Val, perhaps Stuff, and Name, a list of synonyms.
    The first synonym is the name, unless two classes share it.

    Raises:
        UserError: no such file, no header, a line without a number or a name.
    """
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    header = [word.strip() for word in lines[0]] if lines else []
    if not {"Idx", "Name"} <= {*header}:
        raise UserError(
            "found no header with Idx and Name, expected one line per class with tabs between its "
            "columns.",
            path=path,
        )
    number, name = header.index("Idx"), header.index("Name")
    synonyms: dict[int, str] = {}
    for position, words in enumerate(lines[1:], 2):
        words = [word.strip() for word in words]
        if len(words) != len(header) or not words[number].isdecimal() or not words[name]:
            raise UserError(
                f"line {position}: found {len(words)} columns, expected {len(header)} with a "
                "number and a name.",
                path=path,
            )
        if int(words[number]) in (0, *synonyms):
            raise UserError(f"line {position}: the number {words[number]} is taken.", path=path)
        synonyms[int(words[number])] = words[name]
    first = {key: words.split(",")[0].strip() for key, words in synonyms.items()}
    counts = Counter(first.values())
    return {key: first[key] if counts[first[key]] == 1 else synonyms[key] for key in first}


def _base(root: Path) -> Path:
    """The folder of the dataset: the given one, or that of its archive within it."""
    return root / _FOLDER if (root / _FOLDER).is_dir() else root


def _has_split(base: Path, split: str) -> bool:
    return (base / "images" / split).is_dir() and (base / "annotations" / split).is_dir()


def _is_full(root: Path) -> bool:
    bases = [root, *root.glob("ADE20K_*/")]
    return any(
        (base / name).exists()
        for base in bases
        for name in ("index_ade20k.pkl", "index_ade20k.mat", "images/ADE")
    )


FORMAT = Format("ade20k", _TITLE, recognize, read)
