"""`segcoord predict` on real files, through the command."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import segcoord
from segcoord.cli.main import run
from segcoord.cli.predict import predict
from segcoord.data.labels import VOC
from segcoord.inference.inputs import Source
from segcoord.inference.photo import read_photo
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.video import VideoInterrupted, predict_video
from segcoord.inference.visualize import blend, overlay
from segcoord.models.segmentation import SegmentationModel


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> SegmentationModel:
    return segcoord.load(tiny_run / "best.ckpt")


@pytest.fixture(scope="module")
def scenes(sample_voc: Path) -> list[Path]:
    return sorted((sample_voc / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())


@pytest.fixture
def photos(scenes: list[Path], tmp_path: Path) -> Path:
    """Four photos in two folders, with four suffixes."""
    folder = tmp_path / "photos"
    (folder / "day").mkdir(parents=True)
    shutil.copy(scenes[0], folder / "a.JPG")
    shutil.copy(scenes[1], folder / "day" / "a.jpg")
    with Image.open(scenes[2]) as image:
        image.save(folder / "day" / "b.png")
        image.crop((0, 0, 75, 61)).convert("L").save(folder / "c.tif")
    return folder


def command(tiny_run: Path, *options: object) -> int:
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--device=cpu", *map(str, options)]
    return run(predict, "segcoord predict", arguments)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def areas(out: Path) -> list[dict[str, str]]:
    with (out / "areas.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_overlays_and_areas_of_a_folder(
    photos: Path, tiny_run: Path, model, tmp_path: Path, capsys
) -> None:
    (photos / "notes.txt").touch()
    out = tmp_path / "out"
    assert command(tiny_run, photos, f"--out={out}") == 0
    names = ["a", "c", "day/a", "day/b"]
    masks, overlays = ([f"{kind}/{name}" for name in names] for kind in ("masks", "overlays"))
    expected = ["areas.csv", *(f"{m}.png" for m in masks), *(f"{o}.jpg" for o in overlays)]
    assert files(out) == sorted(expected)
    printed = capsys.readouterr().out
    assert "4 images; skipped: 1 .txt" in printed
    assert "4 of 4 predicted" in printed
    rows = areas(out)
    assert len(rows) == 4 * len(model.labels)
    for name, path in zip(names, ["a.JPG", "c.tif", "day/a.jpg", "day/b.png"]):
        pixels = read_photo(photos / path).pixels
        mask = segcoord.predict(model, pixels)
        with Image.open(out / "masks" / f"{name}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), model.labels.to_value[mask])
            colors = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(colors, model.labels.colors[mask])
        with Image.open(out / "overlays" / f"{name}.jpg") as image:
            shown, exact = np.array(image).astype(int), overlay(pixels, mask, model.labels)
        assert shown.shape == exact.shape
        assert np.abs(shown - exact).mean() < 6
        own_rows = [row for row in rows if row["file"] == str(photos / path)]
        assert [row["class"] for row in own_rows] == model.labels.names
        assert [int(row["id"]) for row in own_rows] == [c.id for c in model.labels.classes]
        counts = np.bincount(mask.ravel(), minlength=len(model.labels))
        assert [int(row["pixels"]) for row in own_rows] == counts.tolist()
        fractions = [float(row["share"]) for row in own_rows]
        np.testing.assert_allclose(fractions, counts / mask.size, atol=1e-6)


def test_probabilities_are_those_of_the_views(
    photos: Path, tiny_run: Path, model, tmp_path: Path
) -> None:
    """Writing them does not change the masks."""
    photo, names = photos / "c.tif", model.labels.names
    for views, options in (
        (Views(), []),
        (Views((0.75, 1.0), True), ["--scales", "0.75", "1.0", "--flip"]),
    ):
        out = tmp_path / f"{len(options)}"
        masks = [out / "masks" / "c.png", out / "without" / "masks" / "c.png"]
        assert command(tiny_run, photo, f"--out={out}", "--probs", "--no-overlays", *options) == 0
        assert not (out / "overlays").exists()
        assert command(tiny_run, photo, f"--out={out / 'without'}", *options) == 0
        assert masks[0].read_bytes() == masks[1].read_bytes()
        mask, probabilities = segcoord.predict_probabilities(model, photo, views)
        with np.load(out / "probs" / "c.npz") as file:
            assert file["names"].tolist() == names
            assert file["probabilities"].dtype == np.float16
            np.testing.assert_array_equal(file["probabilities"], probabilities)
        np.testing.assert_array_equal(mask, segcoord.predict(model, photo, views))
        assert probabilities.shape == (len(names), *mask.shape)
        np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=2e-3)
        picked = np.take_along_axis(probabilities, mask[None].astype(int), 0)[0]
        assert (picked >= probabilities.max(0) - 1e-3).all()


def test_probabilities_of_a_single_view_are_the_softmax(scenes: list[Path], model) -> None:
    image = read_photo(scenes[0]).pixels
    _, probabilities = segcoord.predict_probabilities(model, image)
    with torch.inference_mode():
        batch = torch.from_numpy(image[None])
        expected = model(model.normalize(batch))[0].softmax(0).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)


def test_only_large_images_are_cut_into_tiles(
    scenes: list[Path], tiny_run: Path, model, tmp_path: Path, capsys
) -> None:
    large = np.tile(read_photo(scenes[0]).pixels, (2, 3, 1))  # 192x384
    Image.fromarray(large).save(tmp_path / "large.png")
    shutil.copy(scenes[0], tmp_path / "small.jpg")
    inputs, out = [tmp_path / "large.png", tmp_path / "small.jpg"], tmp_path / "out"
    assert command(tiny_run, *inputs, f"--out={out}", "--max-pixels=16384") == 0
    printed = capsys.readouterr().out
    assert "1 of them in tiles, with more than 0.0164 million pixels" in printed
    assert (
        "1 of them much larger than the training crops: up to 384 pixels long, the crops 64"
        in printed
    )
    assert "--scales 0.17" in printed
    strip = np.tile(large[:32], (1, 2, 1))  # 32x768: 64 / 768 is too small a scale
    Image.fromarray(strip).save(tmp_path / "strip.png")
    assert command(tiny_run, tmp_path / "strip.png", f"--out={tmp_path / 'strip'}") == 0
    assert "try --scales 0.1, or train with a larger data.crop_size" in capsys.readouterr().out
    tiled = segcoord.predict(model, large, Views(tile=(192, 64), overlap=16))
    whole = segcoord.predict(model, read_photo(scenes[0]).pixels)
    for name, mask in (("large", tiled), ("small", whole)):
        with Image.open(out / "masks" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.array(image), model.labels.to_value[mask])


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    pixels=st.integers(4096, 2**22),
    scales=st.sampled_from([(1.0,), (0.5, 1.5)]),
)
def test_tiles_have_at_most_the_given_pixels(size, pixels, scales) -> None:
    views = Views(scales).within(pixels, size)
    scaled = [max(1, int(n * scales[-1] + 0.5)) for n in size]
    if scaled[0] * scaled[1] <= pixels:
        assert views == Views(scales)
        return
    rows, columns = views.tiles(tuple(scaled))
    assert all(t <= n for t, n in zip(views.tile, scaled))
    tile_pixels = views.tile[0] * views.tile[1]
    assert tile_pixels <= pixels
    assert views.overlap >= min(16, min(views.tile) // 2)
    if pixels >= 2**18:  # the overlap of tiny tiles costs more
        assert len(rows) * len(columns) * tile_pixels <= 2 * scaled[0] * scaled[1]


def test_tiles_of_a_large_photo() -> None:
    """Of 12 million pixels, 15 million are predicted."""
    views = Views().within(2**22, (3000, 4000))
    assert (views.tile, views.overlap) == ((1696, 2208), 384)
    assert [[s.start for s in spans] for spans in views.tiles((3000, 4000))] == [
        [0, 1304],
        [0, 1792],
    ]


def test_allow_pixels_sets_the_limit_of_photos(
    photos: Path, tiny_run: Path, tmp_path: Path, capsys
):
    out = f"--out={tmp_path / 'out'}"
    assert command(tiny_run, photos / "a.JPG", out, "--allow-pixels=1000") == 1
    assert "too large" in capsys.readouterr().out
    assert command(tiny_run, photos / "a.JPG", out, "--allow-pixels=1000000") == 0
    assert command(tiny_run, photos / "a.JPG", out, "--allow-pixels=0") == 1
    assert "--allow-pixels: found 0, expected at least 1" in capsys.readouterr().err


def test_tile_option_is_used_unchanged(photos: Path, tiny_run: Path, tmp_path, model):
    out = tmp_path / "out"
    assert command(tiny_run, photos / "a.JPG", f"--out={out}", "--tile=64x64", "--overlap=8") == 0
    mask = segcoord.predict(model, photos / "a.JPG", Views(tile=(64, 64), overlap=8))
    with Image.open(out / "masks" / "a.png") as image:
        np.testing.assert_array_equal(np.array(image), model.labels.to_value[mask])


BROKEN = {
    "cut.jpg": "truncated or damaged (image file is truncated",
    "end.png": "truncated or damaged (its end is missing)",
    "crc.png": "wrong checksum in chunk 'IDAT'",
    "empty.jpg": "the file is empty",
    "zeros.png": "it has no known format",
    "text.JPG": "it has no known format",
    "page.jpg": "it is a web page",
    "a.heic": "a HEIC photo",
    "folder.png": "a folder, expected an image file",
    "link.png": "a link to a file that is not there",
}


def write_broken(folder: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    for name in ("cut.jpg", "end.png", "crc.png"):
        noise.save(folder / name)
        raw = bytearray((folder / name).read_bytes())
        if name == "crc.png":
            raw[len(raw) // 2] ^= 1
        (folder / name).write_bytes(raw if name == "crc.png" else raw[: len(raw) // 2])
    for name, content in {
        "empty.jpg": b"",
        "zeros.png": bytes(3000),
        "text.JPG": b"hello\n",
        "page.jpg": b"<html>",
        "a.heic": b"\0\0\0\x18ftypheic\0\0\0\0",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to("gone.png")


def test_broken_files_are_listed_and_the_others_predicted(
    tiny_run: Path, tmp_path: Path, capfd
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for i in range(30):
        path = folder / f"{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24 + i % 5, 40, 3), 2 * i, np.uint8)).save(path)
    write_broken(folder / "1")
    assert command(tiny_run, folder, f"--out={out}", "--no-overlays") == 3
    assert len(list((out / "masks").rglob("*.png"))) == 30
    printed = capfd.readouterr().out
    assert "30 of 40 predicted" in printed
    listed = printed.partition("10 could not be predicted:\n")[2].splitlines()
    assert len(listed) == 10
    for name, reason in BROKEN.items():
        (line,) = [line for line in listed if line.startswith(f"  {folder / '1' / name}: ")]
        assert reason in line
    assert len({row["file"] for row in areas(out)}) == 30


def test_exit_code_is_1_if_nothing_was_predicted(tiny_run: Path, tmp_path: Path, capsys) -> None:
    write_broken(tmp_path)
    out = f"--out={tmp_path / 'out'}"
    assert command(tiny_run, tmp_path / "cut.jpg", tmp_path / "empty.jpg", out) == 1
    assert "0 of 2 predicted" in capsys.readouterr().out
    assert command(tiny_run, tmp_path / "nothing.jpg", out) == 1
    assert "nothing.jpg: no such file or folder" in capsys.readouterr().err


def test_a_write_error_ends_the_run(
    scenes: list[Path], tiny_run: Path, tmp_path: Path, capsys
) -> None:
    """As on a full disk, where later writes fail too."""
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i:02d}.jpg").symlink_to(scenes[0])
    out = tmp_path / "out"
    (out / "masks" / "05.png" / "taken").mkdir(parents=True)
    assert command(tiny_run, tmp_path / "in", f"--out={out}") == 1
    printed = capsys.readouterr()
    assert "05.png: could not be written" in printed.err
    assert "5 of 40 predicted" in printed.out
    assert {Path(row["file"]).stem for row in areas(out)} == {f"{i:02d}" for i in range(5)}
    assert not (out / "masks" / "39.png").exists()
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (5000, 3)])
def test_images_of_extreme_shapes(
    size: tuple[int, int], tiny_run: Path, model, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert command(tiny_run, tmp_path / "a.png", f"--out={tmp_path / 'out'}", "--probs") == 0
    with Image.open(tmp_path / "out" / "masks" / "a.png") as image:
        expected = model.labels.to_value[segcoord.predict(model, pixels)]
        np.testing.assert_array_equal(np.array(image), expected)
    with Image.open(tmp_path / "out" / "overlays" / "a.jpg") as image:
        assert image.width == max(1, round(size[1] * min(1, 4096 / max(size))))


def test_notes_are_printed(photos: Path, tiny_run: Path, tmp_path: Path, capsys) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    assert command(tiny_run, photos / "moving.gif", f"--out={tmp_path / 'out'}") == 0
    assert "moving.gif: the first of its 2 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlap=8"], "--overlap: found 8 without --tile"),
        (["--tile=64x64", "--max-pixels=65536"], "--max-pixels and --tile both set"),
        (["--max-pixels=100"], "--max-pixels: found 100, expected at least 4096"),
        (["--runtime=tflite"], "--runtime: found 'tflite'"),
        (["--scales=0"], "scales: found 0"),
        (["clip.mp4", "--probs"], "--probs: applies to images only"),
        (["clip.mp4", "--no-overlays"], "--no-overlays: videos have no other output"),
        (["day/a.jpg"], "would both be written to"),
        (["--checkpoint=none.ckpt"], "none.ckpt: no such checkpoint"),
        (["--out=a.JPG"], "a.JPG: is a file, expected a folder"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_written(
    arguments: list[str], message: str, photos: Path, tiny_run: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(photos)
    (photos / "clip.mp4").touch()
    before = files(photos)
    inputs = [argument for argument in arguments if not argument.startswith("--")]
    options = [argument for argument in arguments if argument not in inputs]
    assert command(tiny_run, "a.JPG", *inputs, "--out=out", *options) == 1
    assert message in capsys.readouterr().err
    assert files(photos) == before


def test_outputs_in_the_input_folder_are_replaced_by_the_next_run(
    photos: Path, tiny_run: Path, capsys
) -> None:
    """They are not inputs of the next run."""
    out = photos / "out"
    assert command(tiny_run, photos, f"--out={out}") == 0
    written = {name: (out / name).read_bytes() for name in files(out)}
    assert command(tiny_run, photos, f"--out={out}") == 0
    assert written == {name: (out / name).read_bytes() for name in files(out)}


def video(path: Path, frames: list[np.ndarray], rate: float = 10) -> Path:
    codec = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, rate, frames[0].shape[1::-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame[..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.fixture(scope="module")
def clip(scenes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [read_photo(path).pixels for path in scenes[:7]]
    return video(tmp_path_factory.mktemp("video") / "clip.avi", frames)


def test_video_of_overlays(clip: Path, tiny_run: Path, model, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert command(tiny_run, clip, f"--out={out}") == 0
    assert files(out) == ["areas.csv", "overlays/clip.mp4"]
    assert "7 frames" in capsys.readouterr().out
    written, fps = read_video(out / "overlays" / "clip.mp4")
    frames, _ = read_video(clip)
    assert (len(written), fps) == (7, 10)
    height, width = frames[0].shape[:2]
    assert written[0].shape[0] > height and written[0].shape[1] == width
    assert not any(n % 2 for n in written[0].shape[:2])
    pixels = np.zeros(len(model.labels), int)
    for shown, frame in zip(written, frames):
        mask = segcoord.predict(model, np.ascontiguousarray(frame))
        expected = blend(frame, mask, model.labels)
        assert np.abs(shown[:height].astype(int) - expected).mean() < 10  # loss of the codec
        pixels += np.bincount(mask.ravel(), minlength=len(model.labels))
    rows = areas(out)
    assert [int(row["pixels"]) for row in rows] == pixels.tolist()
    assert {row["file"] for row in rows} == {str(clip)}


def test_unreadable_and_truncated_videos(clip: Path, tiny_run: Path, tmp_path, capfd) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    short = tmp_path / "short.AVI"
    short.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (tmp_path / "list.txt").write_text(f"text.mp4\nshort.AVI\ngone.mp4\n{clip}")
    out = tmp_path / "out"
    assert command(tiny_run, tmp_path / "list.txt", f"--out={out}") == 3
    printed = capfd.readouterr().out
    assert "2 of 4 predicted" in printed
    assert "text.mp4: can't be read as a video" in printed
    assert "gone.mp4: no such file" in printed
    assert "short.AVI: 3 frames of the 7 in its header" in printed
    assert len(list(out.rglob("*.mp4"))) == 2


def test_a_missing_camera_is_an_error(tiny_run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(tiny_run, "97", "--out=out") == 1
    assert "97: there is no camera 97, or it is in use" in capsys.readouterr().out


def test_stopping_completes_a_camera_video_and_discards_a_file_video(
    clip: Path, tmp_path: Path, monkeypatch
) -> None:
    """A video file stands in for the camera."""
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda what: real(str(clip) if what == 7 else what))
    seen: list[np.ndarray] = []

    def classify(frame: np.ndarray) -> np.ndarray:
        seen.append(frame)
        return np.full(frame.shape[:2], len(seen), np.uint8)

    camera, target = Source(Path("7"), Path("camera7"), 7), tmp_path / "camera7.mp4"
    result = predict_video(camera, target, classify, VOC, lambda: len(seen) == 4)
    assert (result.frames, len(read_video(target)[0])) == (4, 4)
    assert np.flatnonzero(result.pixels).tolist() == [1, 2, 3, 4]

    seen.clear()
    file, target = Source(clip, Path("clip")), tmp_path / "clip.mp4"
    with pytest.raises(VideoInterrupted):
        predict_video(file, target, classify, VOC, lambda: len(seen) == 4)
    assert files(tmp_path) == ["camera7.mp4"]


def test_ctrl_c_leaves_complete_files(
    scenes: list[Path], tiny_run: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(200):
        (tmp_path / "in" / f"{i}.jpg").symlink_to(scenes[i % len(scenes)])
    masks = tmp_path / "out" / "masks"

    def interrupt() -> None:
        while not list(masks.glob("[!.]*.png")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=interrupt, daemon=True)
    thread.start()
    assert command(tiny_run, tmp_path / "in", f"--out={tmp_path / 'out'}", "--to=coco") == 130
    thread.join()
    printed = capsys.readouterr().out
    assert "Stopping after the current images" in printed
    done = sorted(p.stem for p in masks.iterdir())
    assert 0 < len(done) < 200
    assert f"{len(done)} of 200 predicted" in printed
    assert sorted({Path(row["file"]).stem for row in areas(tmp_path / "out")}) == done
    polygons = json.loads((tmp_path / "out" / "polygons" / "coco" / "instances.json").read_text())
    assert sorted(Path(image["file_name"]).stem for image in polygons["images"]) == done
    assert not list(tmp_path.rglob("*.part"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_completes_the_video_of_a_camera(
    clip: Path, tiny_run, tmp_path, monkeypatch, capsys
) -> None:
    """A looped video file stands in for the camera."""
    real, reads = cv2.VideoCapture, itertools.count(1)

    class Camera:
        def __init__(self) -> None:
            self.capture = real(str(clip))
            self.isOpened, self.get = self.capture.isOpened, self.capture.get
            self.release = self.capture.release

        def read(self) -> tuple[bool, np.ndarray | None]:
            if next(reads) == 10:
                os.kill(os.getpid(), signal.SIGINT)
            success, frame = self.capture.read()
            if not success:
                self.capture.open(str(clip))
                success, frame = self.capture.read()
            return success, frame

    monkeypatch.setattr(cv2, "VideoCapture", lambda what: Camera() if what == 7 else real(what))
    monkeypatch.chdir(tmp_path)
    assert command(tiny_run, "7", "--out=out") == 0
    printed = capsys.readouterr().out
    assert "1 of 1 predicted" in printed
    frames, _ = read_video(tmp_path / "out" / "overlays" / "camera7.mp4")
    assert 1 <= len(frames) <= 10
    assert f"7: {len(frames)} frames" in printed
