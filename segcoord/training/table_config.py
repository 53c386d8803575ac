"""A table's YAML file: which encoders, reductions, strides and seeds are trained with what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segcoord.config.loading import nearest, read_yaml, task_of
from segcoord.config.schema import CONFIGS
from segcoord.utils.errors import UserError


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        encoder: by its timm name.
        reduction: of its attention; None for its default.
        output_stride: of the segmentation model; None where the encoder is a classifier.
        published: the paper's score in percent, None where it gives none.
    """

    encoder: str
    reduction: int | None
    output_stride: int | None
    published: float | None

    @property
    def name(self) -> str:
        squeezed = f"_r{self.reduction}" if self.reduction else ""
        stride = f"_os{self.output_stride}" if self.output_stride else ""
        return f"{self.encoder}{squeezed}{stride}"

    def settings(self, seed: int) -> dict:
        """What the row sets, as a tree of settings."""
        model = {
            "encoder": self.encoder,
            "reduction": self.reduction,
            "output_stride": self.output_stride,
        }
        given = {key: value for key, value in model.items() if value is not None}
        return {"model": given, "train": {"seed": seed}}


@dataclass(frozen=True)
class Table:
    """A table's YAML file: title, task, rows, seeds, and settings from the weakest on."""

    path: Path
    title: str
    task: str
    rows: list[Row]
    seeds: list[int]
    layers: list[tuple[str, dict]]

    @property
    def score(self) -> str:
        """The column of metrics.csv that the table is about."""
        return CONFIGS[self.task].headline


def read_table(path: Path) -> Table:
    """Reads a table's file.

    Its keys: title; config, a training's YAML file relative to it; settings, what differs from
    that for every row; encoders, names or {encoder, reduction, published}; output_strides, that
    of the configuration unless given; seeds, [0] unless given. `published` is a score in percent,
    or one for each output stride.

    Raises:
        UserError: no such file, an unknown or missing key, an empty or repeated row.
    """
    tree = read_yaml(path)
    known = ["title", "config", "settings", "encoders", "output_strides", "seeds"]
    for key in tree:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
    for key, kind in (("title", str), ("config", str), ("encoders", list)):
        if not tree.get(key):
            raise UserError(f"{path}: lacks the key {key!r}; a table has {', '.join(known)}")
        if not isinstance(tree[key], kind):
            expected = "a list" if kind is list else "a word"
            raise UserError(f"{path}: {key}: found {tree[key]!r}, expected {expected}")
    config = Path(path.parent, tree["config"])
    layers = [(str(config), read_yaml(config)), (str(path), _settings(tree, path))]
    task = task_of(*layers[0])
    if task == "segmentation":
        own = (layers[0][1].get("model") or {}).get("output_stride", 16)
        strides = _integers(tree, "output_strides", [own], path)
    elif "output_strides" in tree:
        raise UserError(f"{path}: output_strides: a classifier has none; take the key out")
    else:
        strides = [None]
    rows = [_row(given, stride, path) for given in tree["encoders"] for stride in strides]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} is in it {names.count(name)} times")
    return Table(path, tree["title"], task, rows, _integers(tree, "seeds", [0], path), layers)


def _settings(tree: dict, path: Path) -> dict:
    """What differs for every row, which is nothing that the rows themselves say."""
    settings = tree.get("settings") or {}
    groups = settings.values() if isinstance(settings, dict) else [None]
    if not all(isinstance(group, dict) for group in groups):
        raise UserError(
            f"{path}: settings: found {settings!r}, expected {{train: {{lr: 0.1}}}} say"
        )
    for group, key, place in (
        ("model", "encoder", "encoders"),
        ("model", "reduction", "encoders: [{encoder, reduction}]"),
        ("model", "output_stride", "output_strides"),
        ("train", "seed", "seeds"),
    ):
        if key in settings.get(group, {}):
            raise UserError(f"{path}: settings: {group}.{key} is what {place} says; put it there")
    return settings


def _integers(tree: dict, key: str, default: list[int], path: Path) -> list[int]:
    values = tree.get(key, default)
    if not isinstance(values, list) or not values or not all(type(v) is int for v in values):
        raise UserError(f"{path}: {key}: found {values!r}, expected a list of integers")
    if len(set(values)) < len(values):
        raise UserError(f"{path}: {key}: {values} has the same one twice")
    return values


def _row(given: object, stride: int | None, path: Path) -> Row:
    given = {"encoder": given} if isinstance(given, str) else given
    known = ["encoder", "reduction", "published"]
    if not isinstance(given, dict) or not isinstance(given.get("encoder"), str):
        raise UserError(f"{path}: encoders: found {given!r}, expected a name or {{encoder: name}}")
    for key in given:
        if key not in known:
            raise UserError(f"{path}: encoders: unknown key {key!r}{nearest(str(key), known)}")
    reduction, published = given.get("reduction"), given.get("published")
    if reduction is not None and type(reduction) is not int:
        raise UserError(f"{path}: encoders: reduction: found {reduction!r}, expected an integer")
    scores = published if isinstance(published, dict) else {stride: published}
    if published is not None and not all(
        isinstance(score, int | float) and (at is None or type(at) is int)
        for at, score in scores.items()
    ):
        raise UserError(
            f"{path}: encoders: published: found {published!r}, expected a number of percent, or "
            "one for each output stride, {16: 73.3}"
        )
    if stride not in scores:
        raise UserError(
            f"{path}: encoders: published: found {published!r}, which has none for output stride "
            f"{stride}"
        )
    return Row(given["encoder"], reduction, stride, scores[stride])
