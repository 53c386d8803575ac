"""COCO JSON: instances, stuff and panoptic annotations, of several splits; Roboflow's too."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from segcoord.data.annotations.formats.cityscapes import is_cityscapes
from segcoord.data.annotations.image_lookup import ImageFinder, no_images_error
from segcoord.data.annotations.names import record_names
from segcoord.data.annotations.rasterize import polygon_mask
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.source_files import peek, read_json
from segcoord.data.file_pattern import list_files
from segcoord.data.mask_reader import read_stored_mask
from segcoord.utils.errors import UserError

_PROBED = 50  # JSON files that recognition opens
_OTHER_KINDS = re.compile(r"(person_keypoints|captions|image_info)_", re.IGNORECASE)
_SPLIT = re.compile(r"^(instances|stuff|panoptic|annotations)?[-_]*|[-_.]*(annotations|coco)$")
BOXES = "COCO annotations without a segmentation, such as boxes"
_ROBOFLOW = "class of a whole Roboflow project, which no shape has"
_BROKEN = "annotations that can't be read"


class _Segment(NamedTuple):
    """An annotation, or a segment of a panoptic PNG."""

    label: str | None  # None if its category is not listed
    category: object
    segmentation: object  # polygons, an RLE, or the segment's id in the PNG
    crowd: bool
    key: str


@dataclass(frozen=True)
class _Content:
    """The annotations of an image; `png` is the file of a panoptic annotation."""

    segments: tuple[_Segment, ...]
    png: Path | None = None


def recognize(root: Path) -> str | None:
    """JSON files with lists of images and of annotations or categories."""
    if is_cityscapes(root) or _is_mapillary(root):  # which have panoptic JSON files too
        return None
    files = [f for f in list_files(root) if f.lower().endswith(".json")]
    files.sort(key=lambda f: (f.count("/") > 1, f))
    found = [f for f in files[:_PROBED] if _is_coco(root / f)]
    return f"{found[0]} with images, annotations and categories" if found else None


def _is_mapillary(root: Path) -> bool:
    return any(root.glob("config*.json")) and (root / "training").is_dir()


def _is_coco(path: Path) -> bool:
    text = peek(path)
    lists = {
        k for k in ("images", "annotations", "categories") if re.search(rf'"{k}"\s*:\s*\[', text)
    }
    images = "images" in lists or ('"image_id"' in text and '"file_name"' in text)
    return (
        images
        and len(lists) >= (2 if len(text) < 1 << 17 else 1)
        and not re.search(r'"shapes"\s*:', text)
    )


def read(root: Path) -> Export:
    """Parse the JSON files, and find the images."""
    files = list_files(root)
    skipped: Counter[str] = Counter()
    contents = _contents(root, files, skipped)
    finder = ImageFinder(root, files)
    if not finder.files:
        raise no_images_error(root, "COCO JSON", next(iter(contents)))
    splits = _splits([*contents])
    classes: dict[str, ClassName] = {}
    records: list[Record] = []
    first: dict[Path, str] = {}
    for file, content in contents.items():
        for each in _records(root, file, content, splits[file], finder, skipped):
            other = first.setdefault(each.image, file)
            if other != file and each.image.exists():
                raise UserError(
                    f"{root}: the image {each.image.name} is in {other} and in {file}. Keep one "
                    "kind of annotation in the folder, instances, stuff or panoptic, or remove the "
                    "image from one of the splits."
                )
            records.append(each)
        for listed in _classes(file, content):
            classes.setdefault(listed.name, listed)
    segments = [s for r in records if r.content is not None for s in r.content.segments]
    if any(isinstance(s.segmentation, dict) for s in segments):
        _pycocotools()
    used = {s.label for s in segments}
    kept = [c for c in classes.values() if c.name in used or not _is_project(c, contents)]
    if len(kept) < len(classes):
        skipped[_ROBOFLOW] += len(classes) - len(kept)
    paths = [r.image.relative_to(root).as_posix() for r in records]
    named = [replace(r, name=name) for r, name in zip(records, record_names(paths))]
    return Export("COCO JSON", named, kept, annotation, skipped=skipped)


def _contents(root: Path, files: Sequence[str], skipped: Counter[str]) -> dict[str, dict]:
    """The JSON files with segmentations."""
    contents: dict[str, dict] = {}
    for file in files:
        if not file.lower().endswith(".json"):
            continue
        if _OTHER_KINDS.match(file.rpartition("/")[2]):
            skipped["COCO JSON files of keypoints, captions or image information"] += 1
        elif _is_coco(root / file):
            content = read_json(root / file)
            _check_lists(root / file, content)
            contents[file] = content
        else:
            skipped["JSON files that are not COCO's"] += 1
    if not contents:
        raise UserError(
            f"{root}: found no JSON file with lists of images, annotations and categories"
        )
    return contents


def _check_lists(path: Path, content: object) -> None:
    for key, needed in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id",)),
        ("categories", ("id", "name")),
    ):
        items = content.get(key, []) if isinstance(content, dict) else None
        for number, item in enumerate(items if isinstance(items, list) else [None]):
            if not isinstance(item, dict) or any(k not in item for k in needed):
                raise UserError(
                    f"{key}[{number}]: expected the keys {', '.join(needed)}.",
                    path=path,
                    remedy="Export it again as COCO JSON.",
                )


def _splits(files: Sequence[str]) -> dict[str, str | None]:
    """The split of each JSON file, by its name or its folder; None if there is only one."""
    if len(files) < 2:
        return dict.fromkeys(files)
    names = {f: _SPLIT.sub("", f.rpartition("/")[2].removesuffix(".json")) for f in files}
    if len({*names.values()}) == len(files) and all(names.values()):
        return dict(names)
    folders = {f: f.rpartition("/")[0].rpartition("/")[2] for f in files}
    if len({*folders.values()}) > 1 and all(folders.values()):
        return dict(folders)
    return {f: name or None for f, name in names.items()}


def _classes(file: str, content: Mapping) -> list[ClassName]:
    return [
        ClassName(str(c["name"]), None, c["id"] if isinstance(c["id"], int) else None)
        for c in content.get("categories", [])
    ]


def _is_project(listed: ClassName, contents: Mapping[str, Mapping]) -> bool:
    """Whether a class is Roboflow's category 0, the supercategory of all others."""
    categories = [c for content in contents.values() for c in content.get("categories", [])]
    own = [c for c in categories if str(c["name"]) == listed.name]
    others = [c for c in categories if str(c["name"]) != listed.name]
    return (
        all(c["id"] == 0 and c.get("supercategory") == "none" for c in own)
        and bool(others)
        and all(c.get("supercategory") == listed.name for c in others)
    )


def _records(
    root: Path,
    file: str,
    content: Mapping,
    split: str | None,
    finder: ImageFinder,
    skipped: Counter[str],
) -> list[Record]:
    """The images of a JSON file."""
    names = {c["id"]: str(c["name"]) for c in content.get("categories", [])}
    stuff = file.rpartition("/")[2].lower().startswith("stuff")
    by_image: dict[object, list[_Segment]] = defaultdict(list)
    pngs: dict[object, str] = {}
    for number, each in enumerate(content.get("annotations", [])):
        key = f"annotations[{number}]"
        if "segments_info" in each:
            pngs[each["image_id"]] = each.get("file_name", "")
            by_image[each["image_id"]] += [
                _segment(s, names, s.get("id"), f"{key}.segments_info[{i}]", False)
                for i, s in enumerate(each["segments_info"])
            ]
        elif each.get("segmentation"):
            segmentation = each["segmentation"]
            by_image[each["image_id"]].append(_segment(each, names, segmentation, key, stuff))
        else:
            skipped[BOXES] += 1
    folder = file.rpartition("/")[0]
    records = []
    for image in content.get("images", []):
        given = str(image["file_name"])
        path = finder.find(given, folder, [split] if split else [])
        segments = by_image.pop(image["id"], None)
        png = None
        if image["id"] in pngs:
            png = _png_path(root, file, pngs[image["id"]] or f"{Path(given).stem}.png")
        sizes = image.get("height"), image.get("width")
        size = sizes if all(isinstance(n, int) and n > 0 for n in sizes) else None
        where = f"{root / file}: image {given!r}"
        annotated = _Content(tuple(segments or ()), png) if segments or png else None
        records.append(Record("", path or _expected(root, given), annotated, where, size, split))
    skipped += finder.elsewhere
    finder.elsewhere.clear()
    if by_image:
        skipped["COCO annotations of images that are not listed"] += sum(
            map(len, by_image.values())
        )
    return records


def _segment(
    item: Mapping, names: Mapping[object, str], segmentation: object, key: str, stuff: bool
) -> _Segment:
    category = item.get("category_id")
    # Stuff has no instances: some tools mark all RLE as crowds.
    crowd = bool(item.get("iscrowd")) and not stuff
    return _Segment(names.get(category), category, segmentation, crowd, key)


def _expected(root: Path, given: str) -> Path:
    """Where an image would be that is not there; never outside the root."""
    parts = [p for p in given.replace("\\", "/").split("/") if p not in ("", ".", "..")]
    return root.joinpath(*parts)


def _png_path(root: Path, file: str, given: str) -> Path:
    """The PNG of a panoptic annotation: in a folder with the name of the JSON file."""
    path = root / file
    name = _expected(Path(), given)
    candidates = [path.with_suffix("") / name, path.parent / name, root / name]
    candidates += [root / path.stem / name, *sorted(root.glob(f"*/{path.stem}/{name.name}"))]
    return next((c for c in candidates if c.is_file()), candidates[0])


def annotation(record: Record, size: tuple[int, int]) -> list[Shape]:
    """The shapes of an image."""
    content: _Content = record.content
    for segment in content.segments:
        if segment.label is None:
            raise UserError(
                f"{segment.key}: found the unknown class id {segment.category!r}, expected the id "
                "of one of the categories.",
                path=record.where,
                remedy="Add it to the categories, or export again.",
                kind="unknown class ids",
            )
    if content.png is not None:
        return _panoptic(record, content, size)
    return [shape for s in content.segments for shape in _shapes(record, s, size)]


def _shapes(record: Record, segment: _Segment, size: tuple[int, int]) -> list[Shape]:
    """The shapes of an annotation: the union of its polygons, or its RLE."""
    void = segment.crowd
    if isinstance(segment.segmentation, dict):
        return [Shape(segment.label, mask=_decode(record, segment, size), void=void)]
    try:
        rings = [np.array(p, np.float64).reshape(-1, 2) for p in segment.segmentation]
    except (TypeError, ValueError):
        raise _error(
            record, segment, "expected polygons, lists [x1, y1, x2, y2, ...], or an RLE"
        ) from None
    usable = [r for r in rings if len(r) >= 3 and np.isfinite(r).all()]
    if not _may_overlap(usable):
        return [Shape(segment.label, tuple(rings), void=void)]
    union = np.zeros(size, bool)
    for ring in usable:
        union |= polygon_mask(ring, size)
    unusable = [Shape(segment.label, (r,), void=void) for r in rings if len(r) < 3]
    return [*unusable, Shape(segment.label, mask=union, void=void)]


def _may_overlap(rings: Sequence[np.ndarray]) -> bool:
    """Whether the bounding boxes of two polygons overlap."""
    boxes = [(r.min(0), r.max(0)) for r in rings]
    return any(
        (low < other_high).all() and (other_low < high).all()
        for i, (low, high) in enumerate(boxes)
        for other_low, other_high in boxes[:i]
    )


def _pycocotools() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError(
            "COCO JSON with RLE masks needs pycocotools; install it: pip install 'segcoord[import]'"
        ) from None
    return mask


def _decode(record: Record, segment: _Segment, size: tuple[int, int]) -> np.ndarray:
    """Decode an RLE, compressed or not: (H, W) bool."""
    rle = segment.segmentation
    counts, given = rle.get("counts"), rle.get("size")
    if not isinstance(given, list) or tuple(given) != tuple(size):
        shown = f"{given[1]}x{given[0]}" if isinstance(given, list) and len(given) == 2 else given
        raise _error(
            record,
            segment,
            f"found an RLE of {shown} pixels (width x height), expected {size[1]}x{size[0]}, the "
            "size of the image",
        )
    try:
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise ValueError(f"its runs have {sum(counts)} pixels")
            rle = _pycocotools().frPyObjects(rle, *size)
        return _pycocotools().decode(rle).astype(bool)
    except (TypeError, ValueError, OverflowError) as error:
        raise _error(
            record, segment, f"expected a valid RLE of {size[1]}x{size[0]} ({error})"
        ) from (None)


def _panoptic(record: Record, content: _Content, size: tuple[int, int]) -> list[Shape]:
    """A shape for each class, from the PNG of segment ids, R + 256 G + 65536 B; 0 has no label."""
    stored = read_stored_mask(content.png)
    pixels = stored.pixels
    if stored.palette is not None:
        pixels = stored.palette[pixels]
    if pixels.shape[:2] != tuple(size):
        raise UserError(
            f"a panoptic mask of {pixels.shape[1]}x{pixels.shape[0]} pixels (width x height), "
            f"expected {size[1]}x{size[0]}, the size of the image.",
            path=content.png,
            remedy="Use the masks and images of the same export.",
            kind="masks that don't match the image size",
        )
    ids = pixels.astype(np.int32)
    if pixels.ndim == 3:
        ids = ids[..., 0] + (ids[..., 1] << 8) + (ids[..., 2] << 16)
    values, inverse = np.unique(ids, return_inverse=True)
    owners = {s.segmentation: (s.label, s.crowd) for s in content.segments}
    unknown = [int(v) for v in values if v and int(v) not in owners]
    if unknown:
        raise UserError(
            f"the segment id {unknown[0]}, which segments_info of {record.where} lacks.",
            path=content.png,
            remedy="Use the PNGs and the JSON file of the same export.",
            kind="unknown segment ids",
        )
    groups = list(dict.fromkeys(owners.values()))
    group_of = np.array([groups.index(owners[int(v)]) if v else -1 for v in values])
    regions = group_of[inverse].reshape(size)
    return [
        Shape(label, mask=regions == i, void=crowd)
        for i, (label, crowd) in enumerate(groups)
        if (group_of == i).any()
    ]


def _error(record: Record, segment: _Segment, found: str) -> UserError:
    return UserError(
        f"{segment.key}: {found}.",
        path=record.where,
        remedy="Export it again from the tool.",
        kind=_BROKEN,
    )


FORMAT = Format("coco", "COCO JSON", recognize, read)
