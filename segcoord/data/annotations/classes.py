"""The classes of an imported dataset: chosen, merged and renamed by --classes."""

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segcoord.config.classes import ClassConfig
from segcoord.config.messages import did_you_mean
from segcoord.data.annotations.mask_values import MAX_CLASSES
from segcoord.data.annotations.rasterize import UNLABELLED
from segcoord.data.annotations.records import ClassName, Color
from segcoord.data.custom_labels import palette
from segcoord.data.labels import VOID, VOID_COLOR
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

_SHOWN = 12
_VOID = "void"


@dataclass(frozen=True)
class ClassMap:
    """The classes of the dataset, and which class of the export becomes which.

    Attributes:
        names: by class index.
        colors: of each class.
        indices: class index of each class of the export; `UNLABELLED` if it is not chosen, 255 if
            it is ignored.
        kept: names that DIR had before and the export lacks.
        left_out: classes of the export that are not chosen.
        unlabelled: class index of pixels without a shape, 255 for void.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    indices: Mapping[str, int]
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unlabelled: int = VOID


def map_classes(
    classes: Sequence[ClassName],
    chosen: Sequence[str] | None,
    unlabelled: str,
    background: str | None = None,
    previous: Sequence[ClassConfig] = (),
) -> ClassMap:
    """Decide the classes of the dataset.

    Args:
        classes: of the export.
        chosen: items of --classes, "NAME", "NAME,NAME=NEW" or "NAME=void"; None for all classes.
        unlabelled: what pixels without a shape become: background, which is then the first class,
            or void.
        background: the export's name for pixels without a shape.
        previous: classes of the dataset that is replaced, which keep their indices.

    Raises:
        UserError: an unknown or repeated name in `chosen`; names that differ only in case or
            spaces; fewer than two classes, or too many.
    """
    ordered = _in_order(classes)
    names = [c.name for c in ordered]
    targets = _parse(chosen, names) if chosen else {name: name for name in names}
    _check_spelling(names, targets, chosen, background)
    first: list[str] = []
    if unlabelled == "background":
        first = [_background_name(background, [*targets.values()], [c.name for c in previous])]
        if background is not None:
            targets[background] = first[0]
    elif background is not None:
        targets.pop(background, None)
    wanted = dict.fromkeys([*first, *(t for t in targets.values() if t != _VOID)])
    before = [c.name for c in previous]
    final = list(dict.fromkeys([*before, *wanted]))
    if len(final) < 2:
        raise UserError(
            f"found {len(final)} class{'es' * (len(final) != 1)} "
            f"({join_first(final, _SHOWN) or 'none'}) and no background; a model needs two classes "
            "to learn anything. Use --unlabelled background, or choose more classes with --classes."
        )
    if len(final) > MAX_CLASSES:
        raise UserError(
            f"found {len(final)} classes, expected at most {MAX_CLASSES}. Choose or merge some "
            'with --classes, for example --classes wall "car,truck=vehicle".'
        )
    index = {name: i for i, name in enumerate(final)} | {_VOID: VOID}
    indices = {name: index[targets[name]] if name in targets else UNLABELLED for name in names}
    if background is not None:
        indices[background] = UNLABELLED
    colors = _colors(final, ordered, targets, first, previous)
    kept = tuple(name for name in before if name not in wanted)
    left_out = tuple(n for n in names if n not in targets and n != background)
    unlabelled_index = index[first[0]] if first else VOID
    return ClassMap(tuple(final), colors, indices, kept, left_out, unlabelled_index)


def _in_order(classes: Sequence[ClassName]) -> list[ClassName]:
    """The classes by their id, if all have one; each name once."""
    unique = list({c.name: c for c in reversed(classes)}.values())[::-1]
    if all(c.id is not None for c in unique):
        unique.sort(key=lambda c: c.id)
    return unique


def _parse(chosen: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """--classes as {class of the export: class of the dataset}."""
    targets: dict[str, str] = {}
    for item in chosen:
        left, _, right = item.rpartition("=")
        if item in names or not left:
            left = right = item
        sources = [left] if left in names else left.split(",")
        sources = [part if part in names else part.strip() for part in sources]
        if left == right and len(sources) > 1:
            raise UserError(
                f'--classes: found {item!r}, expected NAME, or NAMES=NEW to merge: "{item}=NEW"'
            )
        if not right.strip():
            raise UserError(f"--classes: found {item!r}, expected a name after the =")
        for source in sources:
            if source not in names:
                hint = did_you_mean(source, list(names))
                raise UserError(
                    f"--classes: the export has no class {source!r}{hint}; its classes: "
                    f"{join_first(names, _SHOWN)}"
                )
            if source in targets:
                raise UserError(f"--classes: found {source!r} twice, expected each class once")
            targets[source] = right.strip()
    return targets


def _check_spelling(
    names: Sequence[str],
    targets: Mapping[str, str],
    chosen: Sequence[str] | None,
    background: str | None,
) -> None:
    """Raise UserError for names that differ only in case or spaces, unless --classes has each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name != background:
            groups[re.sub(r"[\s_-]+", "", name).casefold()].append(name)
    same = [group for group in groups.values() if len(group) > 1]
    wrong = [g for g in same if len({targets.get(n) for n in g}) > 1]
    if chosen:
        wrong = [g for g in wrong if any(n not in targets for n in g)]
    if not wrong:
        return
    merges = {group[0]: f"{','.join(group)}={group[0]}" for group in wrong}
    merged = {name for group in wrong for name in group}
    kept = [name for name in names if name in targets and name not in merged]
    items = [*kept, *merges.values()]
    proposal = " ".join(map(shlex.quote, items))
    pairs = "; ".join(" and ".join(map(repr, group)) for group in wrong)
    raise UserError(
        f"the export has classes whose names differ only in case, spaces, _ or -: {pairs}. If each "
        f"is one class, merge them: --classes {proposal}\nIf not, name all of them in --classes.",
        kind="similar class names",
    )


def _background_name(
    background: str | None, targets: Sequence[str], previous: Sequence[str]
) -> str:
    """The name of the class of unlabelled pixels: one that exists, else background."""
    for name in (*previous, *targets):
        if name.casefold().strip("_") == "background":
            return name
    return "background" if background is None else background


def _colors(
    final: Sequence[str],
    ordered: Sequence[ClassName],
    targets: Mapping[str, str],
    first: Sequence[str],
    previous: Sequence[ClassConfig],
) -> tuple[Color, ...]:
    """A color of its own for each class: that of DIR, of the tool, or one of the palette."""
    wanted: dict[str, Color] = {c.name: tuple(c.color) for c in previous if c.color is not None}
    for c in ordered:
        if c.color is not None and c.name in targets:
            wanted.setdefault(targets[c.name], tuple(c.color))
    for name in first:
        wanted.setdefault(name, (0, 0, 0))
    used: set[Color] = {VOID_COLOR}
    given: dict[str, Color] = {}
    for name in final:
        if name in wanted and wanted[name] not in used:
            given[name] = wanted[name]
            used.add(wanted[name])
    free = (color for color in palette() if color not in used)
    return tuple(given[name] if name in given else next(free) for name in final)
