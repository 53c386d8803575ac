"""Which masks belong to a split, and what their values mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from layout_trees import put_mask

from segcoord.data.labels import LabelClass, LabelSet
from segcoord.data.split import Sample, SampleList, Split
from segcoord.evaluation.prediction_files import PredictionReader, find_predictions
from segcoord.utils.errors import UserError


@pytest.mark.parametrize(
    "ids, values, asks",
    [
        ((2, 0, 1), {0, 1, 2, 255}, "0 (b or a), 1 (c or b), 2 (a or c)"),
        ((2, 0, 1), {1}, "1 (c or b)"),
        ((1, 2, 3), {1, 2}, "1 (a or b), 2 (b or c)"),
        ((1, 2, 3), {1, 2, 3}, None),  # no position is 3
        ((0, 1, 77), {0, 1, 255}, None),  # both are the same
        ((0, 1, 2), {0, 1, 2}, None),
    ],
)
def test_values_that_may_be_ids_or_positions(
    ids: tuple[int, ...], values: set[int], asks: str | None
) -> None:
    labels = LabelSet([LabelClass(name, (0, 0, 0), id) for name, id in zip("abc", ids)])
    PredictionReader(labels, "ids").require_unambiguous(frozenset(values), "out")
    reader = PredictionReader(labels)
    if asks is None:
        reader.require_unambiguous(frozenset(values), "out")
    else:
        with pytest.raises(UserError, match=re.escape(f"differ for {asks}.")):
            reader.require_unambiguous(frozenset(values), "out")


@pytest.mark.parametrize(
    "layout, files, selection",
    [
        ("folder", ("a_1.png", "a_1.tif"), "{name}.tif"),
        ("folder", ("a_1.PNG", "a_1.png"), None),
        ("cityscapes", ("a_1.png", "a_1_pred.png"), "{name}_pred.png"),
        ("cityscapes", ("a_1_gtFine.png", "x/a_1_leftImg8bit.png"), "{name}_gtFine.png"),
        ("cityscapes", ("a_1_p.png", "x/a_1_p.png"), None),
    ],
)
def test_two_masks_of_an_image(
    layout: str, files: tuple[str, str], selection: str | None, tmp_path: Path
) -> None:
    """The error proposes a pattern only if it selects one of the two."""
    out = tmp_path / "out"
    for file in files:
        put_mask(out / file)
    image, mask = tmp_path / "a_1_leftImg8bit.png", tmp_path / "truth.png"
    stem = image.stem if layout == "cityscapes" else "a_1"
    put_mask(mask)
    labels = LabelSet([LabelClass("a", (0, 0, 0), 0)])
    split = Split("val", SampleList([Sample(stem, image, mask, labels)]), labels)
    with pytest.raises(
        UserError, match=f"{files[0]} and {files[1]} both belong to {stem}"
    ) as error:
        find_predictions(str(out), split, layout, allow_extra=True)
    found = re.findall('--predictions "(.*)"', str(error.value))
    assert found == ([f"{out}/{selection}"] if selection else [])
    if selection:
        find_predictions(found[0], split, layout, allow_extra=True)
