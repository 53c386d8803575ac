"""Augmentation: equal to that of albumentations, seeded per sample; bad pipelines are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import command, rows

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import DataConfig, ImageFolderConfig
from segcoord.data.custom_augmentation import CustomAugmentation
from segcoord.data.labels import VOID
from segcoord.data.transforms import CenterTransform, ClassTransform, TrainTransform, jitter_color
from segcoord.utils.errors import UserError

A = pytest.importorskip("albumentations", reason="albumentations is not installed")
PHOTO = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8), (5, 5), 0
)
CROP = (48, 64)


def seeded(pipeline, key: tuple[int, ...]):
    pipeline.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    return pipeline


def test_color_jitter_equals_albumentations() -> None:
    part = (0.7, 1.3)
    theirs = A.Compose(
        [A.ColorJitter(brightness=part, contrast=part, saturation=part, hue=(0, 0), p=0.5)]
    )
    for key in ((0, epoch, index) for epoch in range(3) for index in range(20)):
        expected = seeded(theirs, key)(image=PHOTO)["image"]
        assert np.array_equal(jitter_color(PHOTO, 0.3, key), expected)


@pytest.mark.parametrize("size", [(61, 83), (20, 90), (90, 20), (32, 32)])
def test_classification_equals_albumentations(size: tuple[int, int]) -> None:
    data = ImageFolderConfig("x", crop_size=32, resize=40, scale=(0.3, 1.0))
    image = cv2.resize(PHOTO, size[::-1])
    theirs = A.Compose(
        [A.RandomResizedCrop((32, 32), scale=data.scale, ratio=data.ratio), A.HorizontalFlip()]
    )
    for key in ((0, 1, index) for index in range(40)):
        expected = seeded(theirs, key)(image=image)["image"]
        assert np.array_equal(ClassTransform(data)(image, key), expected)
    center = A.Compose([A.SmallestMaxSize(40), A.CenterCrop(32, 32)])
    assert np.array_equal(CenterTransform(data)(image), center(image=image)["image"])


def saved(path: Path, *transforms) -> Path:
    A.save(A.Compose(list(transforms)), path, "yaml")
    return path


def good(path: Path) -> Path:
    return saved(
        path,
        A.OneOf([A.Rotate(fill_mask=VOID, p=1), A.GaussNoise(p=1)], p=0.9),
        A.RandomBrightnessContrast(),
    )


def test_own_augmentation_depends_on_the_key_alone(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).integers(0, 5, PHOTO.shape[:2], dtype=np.uint8)
    settings = {"crop_size": CROP, "augmentation": str(good(tmp_path / "own.yaml"))}
    first, second = (TrainTransform(DataConfig("voc", "x", **settings), (0.5,) * 3) for _ in "ab")
    results = {}
    for key in ((0, 0, i) for i in range(8)):
        results[key] = first(PHOTO, mask, key)
        assert {*np.unique(results[key][1])} <= {*range(5), VOID}
        assert results[key][0].shape == (*CROP, 3) and results[key][1].shape == CROP
    for key in reversed(results):
        for x, y in zip(results[key], second(PHOTO, mask, key)):
            assert np.array_equal(x, y)
    images = {image.tobytes() for image, _ in results.values()}
    assert len(images) == len(results)
    plain = TrainTransform(DataConfig("voc", "x", crop_size=CROP), (0.5,) * 3)
    assert any(not np.array_equal(plain(PHOTO, mask, k)[0], results[k][0]) for k in results)


def test_own_augmentation_is_the_same_for_any_workers_and_must_not_change(
    sample_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = good(tmp_path / "own.yaml")
    losses = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        options = [f"--data.augmentation={own}", f"--data.workers={workers}", "--train.max_steps=2"]
        assert run(train, "train.py", [*command(sample_voc, folder), *options]) == 0
        losses.append([row["loss"] for row in rows(folder)])
    assert losses[0] == losses[1] and any(losses[0])
    saved(own, A.NoOp())
    capsys.readouterr()
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    assert "data.augmentation has changed since the start of the run" in capsys.readouterr().err


BAD = {
    "fill_mask": (lambda p: saved(p, A.Rotate(p=0.01)), "Rotate writes values into the mask"),
    "inside OneOf": (
        lambda p: saved(p, A.OneOf([A.Affine(translate_px=20), A.NoOp()])),
        "Affine writes values into the mask",
    ),
    "interpolation": (
        lambda p: saved(p, A.Affine(scale=1.3, mask_interpolation=1, fill_mask=VOID)),
        "writes values into the mask",
    ),
    "size": (lambda p: saved(p, A.RandomCrop(20, 20)), "changes the image from"),
    "too large": (lambda p: saved(p, A.RandomCrop(999, 999)), "RandomCrop fails on a crop"),
    "dtype": (lambda p: saved(p, A.Normalize()), "as float32, expected uint8"),
    "unknown transform": (
        lambda p: p.write_text(good(p).read_text().replace("Rotate", "Rotatoe")),
        "not a pipeline of albumentations",
    ),
    "unknown argument": (
        lambda p: p.write_text(good(p).read_text().replace("fill_mask", "mask_fill")),
        "mask_fill",
    ),
    "no pipeline": (lambda p: p.write_text("a: 1"), "not a pipeline of albumentations"),
    "no YAML": (lambda p: p.write_bytes(b"\x00\xff{"), "not a pipeline of albumentations"),
    "no file": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_pipeline_is_refused(case: str, tmp_path: Path) -> None:
    write, message = BAD[case]
    write(tmp_path / "own.yaml")
    with pytest.raises(UserError) as caught:
        CustomAugmentation(tmp_path / "own.yaml", CROP)
    assert "own.yaml" in str(caught.value) and message in str(caught.value)
