"""`segcoord predict` with the image_to_mask file of an exported folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import images_of
from PIL import Image

import segcoord
from segcoord.cli.main import main
from segcoord.data.labels import VOC
from segcoord.inference.mask_file import MaskFile, open_mask_file
from segcoord.inference.photo import Photo
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.strips import PhotoStrips
from segcoord.utils.errors import UserError

WITHOUT_TORCH = """
import sys
from segcoord.cli.main import main
code = main(sys.argv[1:])
assert not {"torch", "timm"} & sys.modules.keys()
sys.exit(code)
"""


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in (folder / "masks").iterdir()}


def share_of_equal_pixels(folder: Path, images: Path, views: Views, model) -> float:
    masks = masks_in(folder)
    equal = [
        masks[path.stem] == segcoord.predict(model, path, views)
        for path in images.iterdir()
        if path.stem in masks
    ]
    assert len(equal) == len(masks) == 22
    return np.mean(equal)


def test_a_photo_is_predicted_without_torch(exported: Path, sample_voc: Path, tmp_path: Path):
    images = images_of(sample_voc)
    arguments = ["predict", f"--checkpoint={exported}", f"--out={tmp_path / 'p'}", str(images)]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    model = segcoord.load(exported)
    assert share_of_equal_pixels(tmp_path / "p", images, Views(), model) > 0.9999


@pytest.mark.parametrize(
    ("options", "views"),
    [
        (["--max-pixels=6400"], Views().within(6400, (96, 128))),
        (["--flip"], Views(flip=True)),
    ],
)
def test_tiles_and_other_views_use_the_network(
    exported: Path, sample_voc: Path, tmp_path: Path, options: list[str], views: Views
) -> None:
    images = images_of(sample_voc)
    arguments = [f"--checkpoint={exported}", f"--out={tmp_path}", "--no-overlays", str(images)]
    assert main(["predict", *arguments, *options]) == 0
    assert share_of_equal_pixels(tmp_path, images, views, segcoord.load(exported)) == 1


def test_only_some_folders_have_such_a_file(exported: Path, tiny_run: Path) -> None:
    assert open_mask_file(tiny_run / "best.ckpt", None) is None
    assert open_mask_file(tiny_run, None) is None
    with pytest.raises(UserError, match=r"--runtime torch: .* was exported as onnx"):
        open_mask_file(exported, "torch")


def test_a_photo_read_in_strips_is_predicted_as_a_whole() -> None:
    """`--max-pixels` may be larger than such a photo."""
    pixels = np.random.default_rng(0).integers(0, 21, (5, 4, 3), np.uint8)
    strips = PhotoStrips((5, 4), lambda: iter([Photo(pixels[:3], ()), Photo(pixels[3:], ())]))
    predict = MaskFile(lambda batch: batch[..., 0].astype(np.int64), VOC)
    np.testing.assert_array_equal(predict(strips), pixels[..., 0])
