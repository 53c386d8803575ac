"""Write small exports of annotation tools, and read them as an import does, for tests."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from layout_trees import SIZE

from segcoord.data.annotations.records import Export, Format, MaskFile, Record, Shape
from segcoord.utils.errors import UserError


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def put_json(path: Path, content: object) -> Path:
    return put_text(path, json.dumps(content))


def by_name(export: Export) -> dict[str, Record]:
    records = {record.name: record for record in export.records}
    assert len(records) == len(export.records)
    return records


def annotation(
    export: Export, name: str, size: tuple[int, int] = SIZE[::-1]
) -> list[Shape] | MaskFile:
    """The annotation of an image of `size` (height, width), as another process reads it."""
    read, record = pickle.loads(pickle.dumps((export.annotation, by_name(export)[name])))
    return read(record, size)


def rings(shapes: list[Shape]) -> list[tuple[str, list]]:
    """The label of each shape, and its rings as lists of [x, y]."""
    assert all(shape.mask is None for shape in shapes)
    return [(s.label, [ring.round(6).tolist() for ring in s.rings]) for s in shapes]


def refusal(chosen: Format, folder: Path) -> str:
    """The error of reading a folder."""
    with pytest.raises(UserError) as caught:
        chosen.read(folder)
    return str(caught.value)


def refused_annotation(export: Export, name: str, size: tuple[int, int] = SIZE[::-1]) -> str:
    """The error of reading the annotation of an image."""
    with pytest.raises(UserError) as caught:
        annotation(export, name, size)
    return str(caught.value)
