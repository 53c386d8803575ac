"""Large photos in strips equal the same photos as a whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import local_model
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

import segcoord
from segcoord.inference import strips
from segcoord.inference.photo import WHITE_NOTE, read_photo
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.strips import PhotoStrips, open_photo
from segcoord.utils.errors import UserError

SMOOTH = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (9, 11, 4), np.uint8),
    (83, 61),
    interpolation=cv2.INTER_CUBIC,
)
RGBA = Image.fromarray(SMOOTH)
RGB = RGBA.convert("RGB")
ORIENTATION = 0x0112
KINDS = {  # with a suffix; options of Pillow
    "rgb.png": (RGB, {}),
    "rgba.png": (RGBA, {}),
    "gray.png": (RGB.convert("L"), {}),
    "gray-alpha.png": (RGBA.convert("LA"), {}),
    "palette.png": (RGB.quantize(200), {"transparency": 0}),
    "one-strip.tif": (RGB, {}),
    "lzw.tif": (RGB, {"compression": "tiff_lzw", "strip_size": 1000, "tiffinfo": {317: 2}}),
    "alpha.tif": (RGBA, {"compression": "tiff_adobe_deflate", "strip_size": 1000}),
    "jpeg.tif": (RGB, {"compression": "jpeg", "strip_size": 1000, "quality": 90}),
    "palette.tif": (RGB.quantize(9), {}),
}


def tiled_tiff(values: np.ndarray, rows: int, columns: int) -> bytes:
    """An uncompressed RGB TIFF in tiles, which Pillow reads and can't write."""
    height, width = values.shape[:2]
    padded = np.pad(values, ((0, -height % rows), (0, -width % columns), (0, 0)))
    tiles = [
        padded[y : y + rows, x : x + columns].tobytes()
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]
    tags, header = ImageFileDirectory_v2(), b"II*\0" + (8).to_bytes(4, "little")
    tags[256], tags[257], tags[258], tags[259] = width, height, (8, 8, 8), 1
    tags[262], tags[277], tags[284] = 2, 3, 1
    tags[322], tags[323], tags[325] = columns, rows, [len(tile) for tile in tiles]
    tags.tagtype[324] = 4  # 32 bits, also for small offsets
    for start in (0, 8 + len(tags.tobytes(8)) + 12 + 4 * len(tiles)):
        tags[324] = [start + i * len(tiles[0]) for i in range(len(tiles))]
    directory = tags.tobytes(8)
    assert len(directory) + 8 == tags[324][0]
    return header + directory + b"".join(tiles)


def test_tiles_of_a_tiff_equal_the_whole_photo(tmp_path: Path) -> None:
    values = np.array(RGB)
    (tmp_path / "a.tif").write_bytes(tiled_tiff(values, 16, 32))
    pixels = open_photo(tmp_path / "a.tif").pixels
    assert isinstance(pixels, PhotoStrips)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, values)
    np.testing.assert_array_equal(pixels[10:50, 20:83], values[10:50, 20:83])


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(strips, "MIN_PIXELS", 2000)
    monkeypatch.setattr(strips, "STRIP", 500)


@pytest.mark.parametrize("name", KINDS)
def test_strips_equal_the_whole_photo(tmp_path: Path, name: str) -> None:
    image, options = KINDS[name]
    image.save(tmp_path / name, **options)
    whole, photo = read_photo(tmp_path / name), open_photo(tmp_path / name)
    pixels = photo.pixels
    assert isinstance(pixels, PhotoStrips)
    assert pixels.shape == whole.pixels.shape
    for rows, columns in (  # the fourth starts again
        (slice(0, 20), slice(3, 9)),
        (slice(7, 40), slice(0, 83)),
        (slice(30, 61), slice(80, 83)),
        (slice(2, 3), slice(0, 83)),
    ):
        np.testing.assert_array_equal(pixels[rows, columns], whole.pixels[rows, columns])
    np.testing.assert_array_equal(np.asarray(pixels), whole.pixels)
    assert (WHITE_NOTE in photo.notes) == (WHITE_NOTE in whole.notes)
    means = cv2.resize(whole.pixels[:60], (41, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.reduced(40)[:30].astype(int) - means).max() <= 1


def test_only_the_rows_in_use_are_kept(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.png")
    pixels = open_photo(tmp_path / "a.png").pixels
    for start in range(0, 60, 5):
        pixels[start : start + 8, :]
        assert sum(len(part) for _, part in pixels._kept) <= 8 + 2 * (500 // 83)


@pytest.mark.parametrize("views", [Views(tile=(32, 48), overlap=8), Views((0.5, 1.0), True)])
def test_predictions_are_those_of_the_whole_photo(tmp_path: Path, views: Views) -> None:
    RGB.save(tmp_path / "a.png")
    model, pixels = local_model(8), open_photo(tmp_path / "a.png").pixels
    expected = segcoord.predict(model, tmp_path / "a.png", views)
    np.testing.assert_array_equal(segcoord.predict(model, pixels, views), expected)


def test_other_photos_are_read_as_a_whole(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for name, options in (("a.jpg", {}), ("turned.png", {"exif": exif}), ("bits.png", {"bits": 4})):
        image = RGB.quantize(16) if options.keys() == {"bits"} else RGB
        image.save(tmp_path / name, **options)
        assert isinstance(open_photo(tmp_path / name).pixels, np.ndarray)


@pytest.mark.parametrize("cut", [0.5, 0.99])
@pytest.mark.parametrize("name", ["rgb.png", "lzw.tif"])
def test_damage_is_an_error(tmp_path: Path, name: str, cut: float) -> None:
    image, options = KINDS[name]
    path = tmp_path / name
    image.save(path, **options)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut)])
    with pytest.raises(UserError, match=f"{name}: .*(truncated or damaged|can't be read)"):
        np.asarray(open_photo(path).pixels)
    if name == "rgb.png":
        middle = len(raw) // 2
        path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
        with pytest.raises(UserError, match="wrong checksum in chunk 'IDAT'"):
            np.asarray(open_photo(path).pixels)
