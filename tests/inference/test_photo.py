"""read_photo against the written pixels, Pillow and OpenCV."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

import segcoord
from segcoord.data.image_io import read_image
from segcoord.inference.photo import allow_pixels, read_photo
from segcoord.utils.errors import UserError

SIZE = (40, 56)
ORIENTATION = 0x0112


def picture(height: int = SIZE[0], width: int = SIZE[1], channels: int = 3) -> np.ndarray:
    """Smooth, so that JPEG loses little; all corners differ."""
    coarse = np.random.default_rng(5).uniform(0, 255, (4, 5, channels)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth.clip(0, 255).astype(np.uint8)


def saved(path: Path, image: Image.Image, **settings: object) -> Path:
    image.save(path, **settings)
    return path


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def by_opencv(path: Path) -> np.ndarray:
    """The file read by OpenCV, which also applies the EXIF orientation of JPEGs."""
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


RGB = Image.fromarray(picture())
KINDS = {
    "rgb.jpg": (RGB, {"quality": 95, "subsampling": 0}),
    "subsampled.jpg": (RGB, {}),
    "gray.jpg": (RGB.convert("L"), {}),
    "progressive.JPG": (RGB, {"progressive": True, "quality": 95, "subsampling": 0}),
    "cmyk.jpg": (RGB.convert("CMYK"), {"quality": 95}),
    "rgb.png": (RGB, {}),
    "gray.png": (RGB.convert("L"), {}),
    "bit.png": (RGB.convert("1"), {}),
    "palette.png": (RGB.quantize(16), {}),
    "rgb.bmp": (RGB, {}),
    "rgb.webp": (RGB, {"lossless": True}),
    "rgb.tif": (RGB, {}),
    "lzw.tif": (RGB, {"compression": "tiff_lzw"}),
    "cmyk.tif": (RGB.convert("CMYK"), {}),
    "rgb.ppm": (RGB, {}),
    "gray.gif": (RGB.convert("L"), {}),
    "rgb.jp2": (RGB, {}),
    "rgb.avif": (RGB, {"quality": 100, "subsampling": "4:4:4"}),
}


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_avif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    fine = {"quality": 100, "subsampling": "4:4:4"}
    path = saved(tmp_path / "a.avif", RGB, exif=exif, **fine)
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_photo(path).pixels, upright)
    assert upright.shape[:2] == (SIZE if orientation < 5 else SIZE[::-1])


@pytest.mark.parametrize("name", KINDS)
def test_ordinary_files_equal_those_read_for_training(tmp_path: Path, name: str) -> None:
    """Equal to `read_image`, and to OpenCV, which is independent code for most formats."""
    image, options = KINDS[name]
    if name == "rgb.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = saved(tmp_path / name, image, **options)
    photo = read_photo(path)
    assert photo.notes == ()
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    np.testing.assert_array_equal(photo.pixels, read_image(path))
    tolerance = {"subsampled.jpg": 40, "gray.jpg": 6, "rgb.avif": 4}.get(
        name, 5 if "jpg" in name.lower() else 1
    )
    assert difference(photo.pixels, np.array(image.convert("RGB"))) <= tolerance
    if name != "cmyk.tif":  # not supported by OpenCV
        assert difference(photo.pixels, by_opencv(path)) <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str, suffix: str) -> None:
    color = RGB.convert(mode)
    alpha = picture(channels=4)[..., 3]
    color.putalpha(Image.fromarray(alpha))
    path = saved(
        tmp_path / f"a{suffix}", color, **({"lossless": True} if suffix == ".webp" else {})
    )
    photo = read_photo(path)
    opacity = alpha[..., None] / 255
    expected = np.array(color.convert("RGB")) * opacity + 255 * (1 - opacity)
    assert np.abs(photo.pixels - expected).max() <= 1
    assert "white" in photo.notes[0]

    color.putalpha(255)
    path = saved(
        tmp_path / f"b{suffix}", color, **({"lossless": True} if suffix == ".webp" else {})
    )
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, np.array(color.convert("RGB")))
    assert photo.notes == ()


def test_transparent_palette_entries_and_colors_become_white(tmp_path: Path) -> None:
    palette = RGB.quantize(8)
    index = int(np.array(palette)[0, 0])
    for name, image, key in [("p.png", palette, index), ("rgb.png", RGB, RGB.getpixel((0, 0)))]:
        photo = read_photo(saved(tmp_path / name, image, transparency=key))
        assert photo.pixels[0, 0].tolist() == [255, 255, 255]
        opaque = (np.array(image.convert("RGB")) == photo.pixels).all(-1)
        assert opaque.any() and not opaque.all()
        assert "white" in photo.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_reduced_to_8(tmp_path: Path, suffix: str, channels: int) -> None:
    values = picture(channels=3).astype(np.uint16)[..., :channels] * 257 + 40
    values[0, 0], values[-1, -1] = 0, 65535
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), values[..., ::-1])
    photo = read_photo(path)
    expected = np.broadcast_to(values / 257, (*SIZE, 3))
    assert np.abs(photo.pixels - expected).max() < 1
    assert photo.pixels[0, 0].tolist() == [0] * 3
    assert photo.pixels[-1, -1].tolist() == [255] * 3
    assert difference(photo.pixels, by_opencv(path)) <= 1
    assert photo.notes == ()


def test_16_bits_with_alpha(tmp_path: Path) -> None:
    values = picture(channels=4).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    opacity = values[..., 3:] / 65535
    expected = values[..., 2::-1] / 257 * opacity + 255 * (1 - opacity)
    assert np.abs(read_photo(tmp_path / "deep.png").pixels - expected).max() <= 2


def test_almost_black_16_bit_photos_get_a_note(tmp_path: Path) -> None:
    path = tmp_path / "thermal.png"
    cv2.imwrite(str(path), picture(channels=1).astype(np.uint16) * 16)
    assert "almost black" in read_photo(path).notes[0]


def test_tiff_with_white_as_0_is_inverted(tmp_path: Path) -> None:
    """PhotometricInterpretation 0 of the TIFF specification."""
    gray = picture(channels=1)
    for values in (gray, gray.astype(np.uint16) * 257):
        path = saved(tmp_path / "w.tif", Image.fromarray(values), tiffinfo={262: 0})
        with Image.open(path) as image:
            assert image.tag_v2[262] == 0
        stored = values if values.dtype == np.uint16 else np.array(Image.open(path))
        expected = 255 - stored // 257 if values.dtype == np.uint16 else stored
        np.testing.assert_array_equal(read_photo(path).pixels[..., 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "gray.tif", "deep.tif"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    image = RGB
    if "gray" in name or "deep" in name:
        image = Image.fromarray(picture(channels=1))
    if "deep" in name:
        image = Image.fromarray(np.array(image).astype(np.uint16) * 257)
    if name.endswith(".tif"):
        options = {"tiffinfo": {ORIENTATION: orientation}}
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        fine = {"a.jpg": {"quality": 95, "subsampling": 0}, "a.webp": {"lossless": True}}
        options = {"exif": exif, **fine.get(name, {})}
    path = saved(tmp_path / name, image, **options)
    pixels = read_photo(path).pixels
    turn = Image.Transpose
    expected = {
        2: [turn.FLIP_LEFT_RIGHT],
        3: [turn.ROTATE_180],
        4: [turn.FLIP_TOP_BOTTOM],
        5: [turn.FLIP_LEFT_RIGHT, turn.ROTATE_90],
        6: [turn.ROTATE_270],
        7: [turn.FLIP_LEFT_RIGHT, turn.ROTATE_270],
        8: [turn.ROTATE_90],
    }.get(orientation, [])
    upright = Image.fromarray(picture(channels=1)) if image.mode != "RGB" else RGB
    for step in expected:
        upright = upright.transpose(step)
    upright = np.array(upright.convert("RGB"))
    assert difference(pixels, upright) <= (6 if name.endswith("jpg") else 0)
    if name == "a.jpg":
        np.testing.assert_array_equal(pixels, by_opencv(path))
        pillow = ImageOps.exif_transpose(Image.open(path))
        np.testing.assert_array_equal(pixels, np.array(pillow))
        assert read_image(path).shape[:2] == SIZE  # datasets keep the orientation of their masks


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_invalid_orientations_are_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / "a.jpg", RGB, exif=exif)
    np.testing.assert_array_equal(read_photo(path).pixels, read_image(path))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_of_several_frames_is_read_with_a_note(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.full((*SIZE, 3), v, np.uint8)) for v in (40, 120, 200)]
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    photo = read_photo(path)
    assert difference(photo.pixels, np.array(frames[0])) <= 1
    assert photo.notes == ("the first of its 3 frames",)


def test_multi_picture_jpegs_of_phones_are_one_photo(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", RGB, format="MPO", save_all=True, append_images=[RGB])
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert read_photo(path).notes == ()


def test_pixel_limit_is_that_of_pillow(tmp_path: Path, monkeypatch) -> None:
    path = saved(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] // 2)
    with pytest.warns(Image.DecompressionBombWarning):
        read_photo(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] // 2 - 1)
    with pytest.raises(
        UserError, match=r"too large: 2,240 pixels, expected at most 2,238\. .*--allow-pixels N"
    ):
        read_photo(path)
    with allow_pixels(SIZE[0] * SIZE[1]):
        np.testing.assert_array_equal(read_photo(path).pixels, np.array(RGB))
    assert SIZE[0] * SIZE[1] // 2 - 1 == Image.MAX_IMAGE_PIXELS


def _inside(path: Path, start: float, content: bytes) -> Path:
    """Overwrite some bytes of the file."""
    raw = bytearray(path.read_bytes())
    at = int(len(raw) * start)
    raw[at : at + len(content)] = content
    path.write_bytes(raw)
    return path


def _bad(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are not photos, and the expected error of each."""
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)

    def cut(name: str, **options: object) -> Path:
        path = saved(folder / name, Image.fromarray(noise), **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    def raw(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.png")
    saved(folder / "crc.png", Image.fromarray(noise))
    saved(folder / "float.tif", Image.fromarray(noise[..., 0].astype(np.float32)))
    return {
        "truncated jpg": (cut("cut.jpg"), "truncated"),
        "truncated png": (cut("cut.png"), "its end is missing"),
        "truncated gif": (cut("cut.gif"), "truncated"),
        "truncated webp": (cut("cut.webp"), "can't be read|truncated"),
        "truncated tif": (cut("cut.tif"), "truncated"),
        "truncated bmp": (cut("cut.bmp"), "truncated"),
        "truncated jp2": (cut("cut.jp2"), "truncated"),
        "wrong checksum": (_inside(folder / "crc.png", 0.5, b"\0\xff\0"), "wrong checksum"),
        "empty": (raw("empty.jpg", b""), "the file is empty"),
        "zeros": (raw("zeros.jpg", bytes(2000)), "no known format"),
        "text": (raw("text.png", b"hello, world " * 9), "no known format"),
        "a page": (raw("page.jpg", b"<!DOCTYPE html><html>"), "web page"),
        "a header alone": (raw("head.png", b"\x89PNG\r\n\x1a\n"), "truncated|known format"),
        "heic": (raw("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" * 3), "HEIC.*JPEG"),
        "raw": (raw("a.NEF", b"II*\0"), "raw file.*developed"),
        "a folder": (folder / "folder.png", "a folder, expected an image"),
        "missing": (folder / "none.jpg", "no such file"),
        "a link": (folder / "link.png", "a link to a file that is not there"),
        "a pipe": (folder / "pipe.png", "neither a file nor a folder"),
        "float": (folder / "float.tif", "mode F, whose range is unknown"),
    }


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    for path, reason in _bad(tmp_path).values():
        with pytest.raises(UserError, match=f"(?s)^{path}: .*({reason})") as raised:
            read_photo(path)
        assert "split" not in str(raised.value)


def test_damage_that_libjpeg_tolerates_gets_a_note(tmp_path: Path, capfd) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(noise))
    _inside(path, 0.6, b"\xff\xd3" * 4)
    photo = read_photo(path)
    assert photo.pixels.shape == (*SIZE, 3)
    assert "as image viewers show it" in photo.notes[0]


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("valid")
    images = {name: KINDS[name] for name in KINDS if name not in ("rgb.ppm", "rgb.bmp", "rgb.avif")}
    return [
        saved(folder / n, image, **options).read_bytes() for n, (image, options) in images.items()
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_random_damage_gives_a_picture_or_a_user_error(valid_files, tmp_path_factory, data) -> None:
    raw = bytearray(data.draw(st.sampled_from(valid_files)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + 3] = data.draw(st.binary(min_size=0, max_size=5))
        raw = raw or bytearray(b"x")
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(raw)
    try:
        photo = read_photo(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert photo.pixels.dtype == np.uint8 and photo.pixels.shape[2] == 3


def test_predict_accepts_only_arrays_and_paths(tiny_run: Path) -> None:
    with pytest.raises(ValueError, match="or a path, found Image"):
        segcoord.predict(segcoord.load(tiny_run / "best.ckpt"), RGB)


def test_predict_reads_a_path_as_a_photo(tmp_path: Path, tiny_run: Path) -> None:
    model = segcoord.load(tiny_run / "best.ckpt")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "a.jpg", RGB, exif=exif)
    mask = segcoord.predict(model, path)
    assert mask.shape == SIZE[::-1]
    np.testing.assert_array_equal(mask, segcoord.predict(model, read_photo(path).pixels))
