"""Exact conversion of color masks to masks of class ids."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT
from image_files import encode, write
from PIL import Image

from segcoord.cli.main import main
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.color_masks import (
    MaskConverter,
    convert_masks,
    find_masks,
    parse_color,
    parse_value,
)
from segcoord.data.color_table import ColorTable
from segcoord.data.labels import CITYSCAPES, VOC, LabelSet, binary_labels, voc_colors
from segcoord.data.layouts import label_set
from segcoord.data.mask_reader import read_mask, read_mask_values
from segcoord.data.mask_writer import write_mask
from segcoord.utils.errors import UserError

SAMPLE = ROOT / "configs" / "sample.yaml"
VOC_VOID = (224, 224, 192)


def random_indices(labels: LabelSet, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    """(H, W) uint8 with every class index, and void."""
    values = np.random.default_rng(0).integers(0, len(labels) + 1, size)
    return np.where(values == len(labels), 255, values).astype(np.uint8)


def convert(masks: Path, out: Path, labels: LabelSet, *void: tuple[int, int, int], values=()):
    converter = MaskConverter(labels, void, values)
    return convert_masks(find_masks(str(masks), out), out, converter, lambda: None)


def folder(tmp_path: Path, **images: Image.Image) -> Path:
    masks = tmp_path / "colors"
    masks.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(masks / f"{name}.png")
    return masks


@pytest.mark.parametrize("labels", [VOC, CITYSCAPES], ids=["voc", "cityscapes"])
@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_colors_of_written_masks_are_converted_back(
    tmp_path: Path, labels: LabelSet, mode: str
) -> None:
    indices = random_indices(labels)
    exported = tmp_path / "exported" / "a.png"
    write_mask(exported, indices, labels, palette=True)
    masks = folder(tmp_path, a=Image.open(exported).convert(mode))
    assert convert(masks, tmp_path / "ids", labels, VOC_VOID) == (1, 0)
    path = tmp_path / "ids" / "a.png"
    np.testing.assert_array_equal(read_mask_values(path), labels.to_value[indices])
    assert path.read_bytes() == exported.read_bytes()


def test_palette_order_does_not_matter(tmp_path: Path) -> None:
    """Pillow renumbers the colors."""
    indices = random_indices(VOC)
    picture = Image.fromarray(VOC.colors[indices]).quantize(256, dither=Image.Dither.NONE)
    assert not np.array_equal(np.array(picture), indices)
    masks = folder(tmp_path, a=picture)
    convert(masks, tmp_path / "ids", VOC, VOC_VOID)
    np.testing.assert_array_equal(read_mask_values(tmp_path / "ids" / "a.png"), indices)


def test_custom_class_ids_and_several_void_colors(tmp_path: Path) -> None:
    classes = [ClassConfig("a", [1, 2, 3], 200), ClassConfig("b", [255, 255, 255], 254)]
    labels = label_set(DataConfig("folder", "", classes=classes))
    colors = np.array([[[1, 2, 3], [255, 255, 255], [0, 0, 0], [3, 2, 1]]], np.uint8)
    masks = folder(tmp_path, a=Image.fromarray(colors))
    convert(masks, tmp_path / "ids", labels, (0, 0, 0), (3, 2, 1))
    assert read_mask_values(tmp_path / "ids" / "a.png").tolist() == [[200, 254, 255, 255]]


def test_unknown_color_error_names_the_nearest_class(tmp_path: Path) -> None:
    colors = VOC.colors[random_indices(VOC) % 21]
    colors[0, :7] = 127, 2, 0
    colors[1, 0] = 1, 1, 1
    masks = folder(tmp_path, bad=Image.fromarray(colors), good=Image.new("RGB", (4, 4)))
    with pytest.raises(UserError) as caught:
        convert(masks, tmp_path / "ids", VOC)
    first, second = str(caught.value).splitlines()
    assert first == f"1 of 2 masks can't be converted, the others are in {tmp_path / 'ids'}"
    assert second == (
        f"{masks / 'bad.png'}: the color 127,2,0 (7 pixels) belongs to no class, nor do 1 pixels "
        "of 1 other colors; the nearest is 'aeroplane', 128,0,0. Add it to data.classes, or make "
        "it void with segcoord data ids --void 127,2,0."
    )
    assert [p.name for p in (tmp_path / "ids").iterdir()] == ["good.png"]


def test_interpolated_colors_are_diagnosed(tmp_path: Path) -> None:
    picture = Image.fromarray(VOC.colors[random_indices(VOC) % 21]).resize((80, 90), Image.BILINEAR)
    masks = folder(tmp_path, a=picture)
    with pytest.raises(UserError, match="come from resizing with interpolation"):
        convert(masks, tmp_path / "ids", VOC, VOC_VOID)


def half_transparent() -> Image.Image:
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    return picture


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("L", (4, 4), 30), r"mask values 30 \(16 pixels\) belong to no class"),
        (Image.new("LA", (4, 4)), "16 pixels are transparent"),
        (half_transparent(), "1 pixels are transparent"),
    ],
)
def test_masks_without_exact_colors_are_rejected(tmp_path: Path, picture, message: str) -> None:
    masks = folder(tmp_path, a=picture)
    with pytest.raises(UserError, match=rf"a\.png: .*{message}") as caught:
        convert(masks, tmp_path / "ids", VOC)
    # There is no folder of the others.
    assert str(caught.value).splitlines()[0] == "1 of 1 masks can't be converted"
    assert not (tmp_path / "ids").exists()


def two_classes(*ids: int, void: tuple[int, ...] = ()) -> LabelSet:
    classes = [ClassConfig(name, id=value) for name, value in zip("ab", ids)]
    return label_set(DataConfig("folder", "", classes=classes, void_ids=[*void]))


@pytest.mark.parametrize(
    ("mask", "values", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [(255, 1)], [[0, 1]]),
        (np.array([[0, 1, 128]], np.uint8), [(128, None)], [[0, 1, 255]]),
        (np.array([[False, True]]), [], [[0, 1]]),
        (np.array([[7, 40000, 1]], np.uint16), [(7, 0), (40000, 1)], [[0, 1, 1]]),
    ],
    ids=["0/255", "void", "1 bit", "16 bits"],
)
def test_values_are_converted_to_ids(tmp_path: Path, mask, values, expected: list) -> None:
    masks = folder(tmp_path, a=Image.fromarray(mask))
    convert(masks, tmp_path / "ids", two_classes(0, 1), values=values)
    written = Image.open(tmp_path / "ids" / "a.png")
    assert written.mode == "P" and np.array(written).tolist() == expected
    assert convert(masks, tmp_path / "ids", two_classes(0, 1), values=values) == (0, 1)


def test_unknown_values_are_assigned_by_an_option(tmp_path: Path) -> None:
    masks = folder(tmp_path, a=Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    with pytest.raises(
        UserError, match=r"mask values 128 .*id or void here, such as --value 128=1\."
    ):
        convert(masks, tmp_path / "ids", two_classes(0, 1))


def test_palette_indices_are_values_if_values_are_given(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 9]], np.uint8))
    image.putpalette(VOC.colors.tobytes())
    masks = folder(tmp_path, a=image)
    convert(masks, tmp_path / "ids", two_classes(0, 1), values=[(9, 1)])
    assert read_mask_values(tmp_path / "ids" / "a.png").tolist() == [[0, 1]]


def test_16_bit_colors_and_ids_are_converted(tmp_path: Path) -> None:
    classes = [ClassConfig("a", [1, 2, 3], 300), ClassConfig("b", "#fffffe", [7, 8])]
    labels = label_set(DataConfig("folder", "", classes=classes))
    masks = folder(tmp_path)
    pixels = np.array([[[3, 2, 1, 255], [254, 255, 255, 255]]], np.uint16) * 257  # BGRA
    cv2.imwrite(str(masks / "a.png"), pixels)
    convert(masks, tmp_path / "ids", labels)
    written = np.array(Image.open(tmp_path / "ids" / "a.png"))
    assert written.dtype == np.uint16 and written.tolist() == [[300, 7]]


def test_wrong_values_are_rejected() -> None:
    with pytest.raises(UserError, match="no class has the id 5; expected one of 0, 1"):
        MaskConverter(two_classes(0, 1), values=[(9, 5)])
    with pytest.raises(UserError, match="--value 9: found both 0 and 1"):
        MaskConverter(two_classes(0, 1), values=[(9, 0), (9, 1)])
    for given in ({"void": [(1, 1, 1)]}, {"values": [(7, None)]}):
        with pytest.raises(UserError, match="gives 255 to a class, so no value is void"):
            MaskConverter(two_classes(0, 255), **given)
    assert parse_value("255 = 1") == (255, 1) and parse_value("7=void") == (7, None)
    for text in ("", "1", "1=", "=1", "a=1", "1=2=3", "-1=0", "65536=0"):
        with pytest.raises(UserError, match=r"expected VALUE=ID .*, or VALUE=void"):
            parse_value(text)


def test_jpeg_with_the_suffix_of_a_png_is_rejected(tmp_path: Path) -> None:
    masks = folder(tmp_path)
    Image.new("RGB", (4, 4)).save(masks / "a.png", format="JPEG")
    with pytest.raises(UserError, match="a JPEG file, whose lossy compression changes ids and"):
        convert(masks, tmp_path / "ids", VOC)


def test_damaged_mask_is_reported_and_the_others_are_converted(tmp_path: Path) -> None:
    picture = Image.fromarray(VOC.colors[random_indices(VOC) % 21])
    masks = folder(tmp_path, a=picture, b=picture)
    raw = (masks / "a.png").read_bytes()
    (masks / "a.png").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"1 of 2 masks .*\n.*a\.png: "):
        convert(masks, tmp_path / "ids", VOC)
    assert [p.name for p in (tmp_path / "ids").iterdir()] == ["b.png"]


def test_conversion_resumes_and_never_overwrites(tmp_path: Path) -> None:
    black = Image.new("RGB", (4, 4))
    masks = folder(tmp_path, a=black, b=black, c=black)
    out = tmp_path / "ids"
    assert convert(masks, out, VOC) == (3, 0)
    (out / "b.png").unlink()
    os.utime(out / "a.png", (1, 1))
    assert convert(masks, out, VOC) == (1, 2)
    assert (out / "a.png").stat().st_mtime == 1
    write_mask(out / "c.png", np.ones((4, 4), np.uint8), VOC, palette=True)
    before = (out / "c.png").read_bytes()
    with pytest.raises(UserError, match=r"c\.png: already exists with other ids; remove it"):
        convert(masks, out, VOC)
    assert (out / "c.png").read_bytes() == before


def test_invalid_folders_are_rejected(tmp_path: Path) -> None:
    masks = folder(tmp_path, a=Image.new("RGB", (4, 4)))
    with pytest.raises(UserError, match="this is the folder of the masks"):
        find_masks(str(masks), tmp_path / "ids" / ".." / "colors")
    with pytest.raises(UserError, match=r"no such folder \(--masks\)"):
        find_masks(str(tmp_path / "none"), tmp_path / "ids")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no \.png, .* files"):
        find_masks(str(tmp_path / "empty"), tmp_path / "ids")
    Image.new("RGB", (4, 4)).save(masks / "a.bmp")
    with pytest.raises(UserError, match=r"a\.bmp and a\.png would be written to the same"):
        find_masks(str(masks), tmp_path / "ids")
    Image.new("RGB", (4, 4)).save(masks / "b.JPG", format="JPEG")
    with pytest.raises(UserError, match=r"b\.JPG: lossy compression changes colors"):
        find_masks(str(masks), tmp_path / "ids")


def test_masks_in_subfolders_and_by_pattern(tmp_path: Path) -> None:
    masks = folder(tmp_path, a_mask=Image.new("RGB", (4, 4)))
    folder(masks, b_mask=Image.new("RGB", (4, 4)))
    Image.new("RGB", (4, 4), "white").save(masks / "a.jpg")
    out = masks / "ids"  # not searched itself
    for pattern, names in (("{name}_mask.png", ["a", "colors/b"]), ("colors", ["b_mask"])):
        for _ in range(2):
            assert [*find_masks(str(masks / pattern), out)] == names
            convert(masks / pattern, out, VOC)
        assert all((out / f"{name}.png").is_file() for name in names)
    with pytest.raises(UserError, match=r"a\.jpg: .* select others with --masks .*\{name\}_mask"):
        find_masks(str(masks), out)
    with pytest.raises(UserError, match=r"no files that match \{name\}_x\.png"):
        find_masks(str(masks / "{name}_x.png"), out)


def test_colors_with_two_meanings_are_rejected() -> None:
    two = [ClassConfig("a", [1, 2, 3]), ClassConfig("b", [1, 2, 3])]
    with pytest.raises(UserError, match=r"1,2,3 belongs to both class 'a' and class 'b'"):
        ColorTable(label_set(DataConfig("folder", "", classes=two)), [])
    with pytest.raises(UserError, match=r"0,0,0 belongs to both class 'background' and --void"):
        ColorTable(VOC, [(0, 0, 0)])


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "1,2,256", "a,b,c", "-1,0,0", "#ffffff"])
def test_invalid_void_color_is_rejected(text: str) -> None:
    with pytest.raises(UserError, match=r"expected R,G,B with values from 0 to 255"):
        parse_color(text)


def test_data_ids_command_restores_the_sample_masks(
    tmp_path: Path, sample_voc: Path, capsys
) -> None:
    truth = sample_voc / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    paths = sorted(truth.iterdir())[:3]
    config = [f"--config={SAMPLE}", f"--masks={tmp_path / 'colors'}", f"--out={tmp_path / 'ids'}"]
    colors = np.array([c.color for c in _sample_labels().classes], np.uint8)
    for path in paths:
        ids = np.array(Image.open(path))
        colored = np.where((ids == 255)[..., None], [5, 5, 5], colors[ids % len(colors)])
        folder(tmp_path, **{path.stem: Image.fromarray(colored.astype(np.uint8))})
    assert main(["data", "ids", *config]) == 1
    assert "the color 5,5,5" in capsys.readouterr().err
    assert main(["data", "ids", *config, "--void=5,5,5", "--void", "6,6,6"]) == 0
    assert "3 masks of class ids written" in capsys.readouterr().out
    for path in paths:
        ids = np.array(Image.open(tmp_path / "ids" / path.name))
        np.testing.assert_array_equal(ids, np.array(Image.open(path)))


@pytest.mark.parametrize(
    ("classes", "value", "expected", "line"),
    [
        ("[crack]", "255=1", 255, "in them, 0 is background, 255 is crack"),
        ("[{name: a}, {name: b, id: [3, 255]}]", "7=255", 3, "7=255: written as 3, the id of 'b'"),
    ],
)
def test_data_ids_says_which_ids_it_writes(
    tmp_path: Path, capsys, classes: str, value: str, expected: int, line: str
) -> None:
    mask = np.array([[0, int(value.partition("=")[0])]], np.uint8)
    masks = folder(tmp_path, a=Image.fromarray(mask))
    data = ["--data.layout=folder", f"--data.root={tmp_path}", f"--data.classes={classes}"]
    more = [f"--masks={masks}", f"--out={tmp_path / 'out'}", f"--value={value}"]
    assert main(["data", "ids", *data, *more]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    assert read_mask_values(tmp_path / "out" / "a.png").tolist() == [[0, expected]]


def _sample_labels() -> LabelSet:
    from segcoord.config.loading import read_yaml

    classes = [ClassConfig(**c) for c in read_yaml(SAMPLE)["data"]["classes"]]
    return label_set(DataConfig("voc", "", classes=classes))


def test_vocs_void_color_becomes_void_as_in_training(tmp_path: Path) -> None:
    palette = Image.fromarray(np.uint8([[0, 1, 255]]))
    palette.putpalette([n for c in voc_colors(256) for n in c])
    path = write(tmp_path, "mask.png", encode(palette, format="PNG"))
    assert MaskConverter(VOC).indices(path).tolist() == [[0, 1, 255]]
    binary = binary_labels("plane", (128, 0, 0))
    rgb = write(tmp_path, "rgb.png", encode(palette.convert("RGB"), format="PNG"))
    for mask in (path, rgb):
        assert read_mask(mask, binary).tolist() == [[0, 1, 255]]
        with pytest.raises(UserError, match=r"224,224,192 .* belongs to no class"):
            MaskConverter(binary).indices(mask)  # no id is void
