"""Write the page of a dataset: one HTML file without scripts that needs no other file.

Its Content-Security-Policy allows only its own style sheet, by hash, and embedded pictures. Filters
are CSS selectors on radio buttons.
"""

import base64
import hashlib
from collections import Counter
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from segcoord.evaluation.dataset_page.collect import DatasetContent, SplitContent
from segcoord.utils.files import atomic_write

_MAX_SIZES = 10
_MAX_ERRORS = 50


def write_page(path: Path, content: DatasetContent, root: str) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        content: of the dataset.
        root: its folder, for the headline.

    Raises:
        UserError: the file can't be written.
    """
    package = PackageLoader("segcoord.evaluation.dataset_page", "")
    report = PackageLoader("segcoord.evaluation.report", "")
    environment = Environment(
        loader=ChoiceLoader([package, PrefixLoader({"report": report})]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    classes = [
        {"index": i, "name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.color)}
        for i, c in enumerate(content.labels.classes)
    ]
    shown = {"classes": classes, "splits": content.splits}
    css = environment.get_template("page.css.j2").render(shown)
    total = sum(split.images for split in content.splits)
    page = environment.get_template("page.html.j2").render(
        shown,
        css=Markup(css),
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        root=root,
        total=total,
        rows=[_class_row(content.splits, i) for i in range(len(classes))],
        void=[_percent(s.void, s.void + s.pixels.sum()) for s in content.splits],
        sizes=_size_rows(content.sizes),
        thumbnails=content.thumbnails,
        errors=[(s.name, len(s.errors), s.errors[:_MAX_ERRORS]) for s in content.splits],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _class_row(splits: list[SplitContent], index: int) -> list[dict]:
    """The cells of a class, one for each split."""
    return [
        {
            "pixels": _percent(split.pixels[index], split.pixels.sum()),
            "images": _percent(split.occurrences[index], split.images),
            "count": int(split.occurrences[index]),
        }
        for split in splits
    ]


def _percent(part: int, whole: int) -> float:
    return 100 * float(part) / max(1, float(whole))


def _size_rows(sizes: Counter[tuple[int, int]]) -> list[tuple[str, int, float]]:
    """(name, images, percent of all) of each size, or of ranges of many sizes."""
    if len(sizes) <= _MAX_SIZES:
        bins = Counter({f"{w}x{h}": n for (w, h), n in sorted(sizes.items())})
    else:
        bins = Counter()
        for (width, height), n in sorted(sizes.items(), key=lambda item: max(item[0])):
            low = 1 << (max(width, height).bit_length() - 1)
            bins[f"longer side {low} to {2 * low - 1}"] += n
    total = sizes.total()
    return [(name, n, _percent(n, total)) for name, n in bins.items()]
