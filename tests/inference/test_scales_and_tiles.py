"""Scales, flip and tiles against a simple implementation of docs/evaluation.md."""

from __future__ import annotations

import itertools
import warnings

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import local_model, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import segcoord
from segcoord.inference.scales_and_tiles import Views, parse_tile, scaled_size
from segcoord.inference.tta import average_classes, average_probabilities, predict_views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


def predict_averaged(model: SegmentationModel, image: np.ndarray, views: Views) -> Tensor:
    return average_classes(predict_views(model, image, views), image.shape[:2])


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """A network of stride 8 with a receptive field that reaches over tile borders."""
    torch.manual_seed(3)
    layers = [
        nn.Conv2d(3, 16, 5, stride=4, padding=2),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 6, 5, padding=2),
    ]
    net = nn.Sequential(*layers).requires_grad_(False)
    for layer in net[::2]:
        layer.weight *= 4
    return wrapped(net, 8, 6)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (6, 7, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth.clip(0, 255).astype(np.uint8)


def reference(model: SegmentationModel, image: np.ndarray, views: Views) -> Tensor:
    """(K, H, W) float64: with grid_sample, tile by tile and view by view."""
    height, width = image.shape[:2]
    stride = model.output_stride
    total = torch.zeros(len(model.labels), height, width, dtype=torch.float64)
    for scale in views.scales:
        h, w = (max(1, int(n * scale + 0.5)) for n in (height, width))
        scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
        for flipped in [False, True] if views.flip else [False]:
            pixels = scaled[:, ::-1] if flipped else scaled
            y = (torch.arange(height, dtype=torch.float64) + 0.5) * h / height
            x = (torch.arange(width, dtype=torch.float64) + 0.5) * w / width
            logits = torch.zeros_like(total)
            count = torch.zeros(height, width)
            th, tw = (min(t, n) for t, n in zip(views.tile or (h, w), (h, w)))
            row_step, column_step = (t - views.overlap for t in views.tile or (h, w))
            tops = range(0, max(1, h - views.overlap), row_step)
            lefts = range(0, max(1, w - views.overlap), column_step)
            for top in tops:
                for left in lefts:
                    top, left = min(top, h - th), min(left, w - tw)
                    tile = np.ascontiguousarray(pixels[top : top + th, left : left + tw])
                    normal = (
                        torch.from_numpy(tile / 255).permute(2, 0, 1) - model.mean[0]
                    ) / model.std[0]
                    normal = F.pad(normal, (0, -tw % stride, 0, -th % stride)).float()
                    coarse = model.net(normal[None]).double()
                    v = ((y - top) / (coarse.shape[2] * stride) * 2 - 1)[:, None].expand(
                        height, width
                    )
                    u = ((x - left) / (coarse.shape[3] * stride) * 2 - 1).expand(height, width)
                    grid = torch.stack([u, v], -1)[None]
                    up = F.grid_sample(coarse, grid, padding_mode="border", align_corners=False)[0]
                    inside = ((y >= top) & (y < top + th))[:, None] & (x >= left) & (x < left + tw)
                    logits += up * inside
                    count += inside
            assert (count > 0).all()
            view = (logits / count).softmax(0)
            total += view.flip(2) if flipped else view
    return total / views.count


def check(model: SegmentationModel, image: np.ndarray, views: Views) -> None:
    """Compare with the reference, except where classes are equal up to rounding."""
    with torch.inference_mode():
        classes = predict_averaged(model, image, views)
        probabilities = average_probabilities(predict_views(model, image, views), image.shape[:2])
        expected = reference(model, image, views)
    assert classes.dtype == torch.uint8
    assert probabilities.dtype == torch.float16
    assert (probabilities - expected).abs().max() < 1e-3  # resolution of float16
    best, second = expected.topk(2, 0).values
    right = classes == expected.argmax(0)
    assert (right | (best - second < 1e-5)).all()
    assert right.float().mean() > 0.99
    assert len(classes.unique()) > 1


@pytest.mark.parametrize(
    "views",
    [
        Views(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True),
        Views(scales=(0.8,)),
        Views(flip=True),
        Views(tile=(48, 64), overlap=16),
        Views(scales=(0.5, 1.3), flip=True, tile=(50, 61), overlap=7),
    ],
    ids=str,
)
def test_views_equal_the_simple_implementation(model: SegmentationModel, views: Views) -> None:
    check(model, picture(75, 101), views)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    stride=st.sampled_from([1, 2, 4, 8]),
    scales=st.lists(
        st.sampled_from([0.3, 0.5, 1.0, 1.7, 3.0]), min_size=1, max_size=3, unique=True
    ),
    flip=st.booleans(),
    tile=st.none() | st.tuples(st.integers(3, 30), st.integers(3, 30)),
    overlap=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_any_size_stride_and_tile(size, stride, scales, flip, tile, overlap, seed) -> None:
    views = Views(tuple(scales), flip, tile, overlap if tile else 0)
    model, image = local_model(stride, seed=seed), picture(*size, seed)
    with torch.inference_mode():
        classes = predict_averaged(model, image, views)
        expected = reference(model, image, views)
    best, second = expected.topk(2, 0).values
    assert ((classes == expected.argmax(0)) | (best - second < 1e-5)).all()


def test_result_does_not_depend_on_the_band_size(model: SegmentationModel, monkeypatch) -> None:
    image, views = picture(75, 101), Views((0.5, 1.3), True, (50, 61), 7)
    with torch.inference_mode():
        whole = predict_averaged(model, image, views)
        for values in (1, 6 * 101 * 7):
            monkeypatch.setattr("segcoord.inference.tta.BAND", values)
            assert torch.equal(predict_averaged(model, image, views), whole)


def test_a_single_view_equals_the_default_prediction(model: SegmentationModel) -> None:
    """Bit-identical if one tile covers the image; equal up to rounding through the averaging."""
    image = picture(75, 101)
    default = segcoord.predict(model, image)
    for tile in [(75, 101), (2000, 101), (300, 300)]:
        assert (segcoord.predict(model, image, Views(tile=tile, overlap=16)) == default).all()
    with torch.inference_mode():
        averaged = predict_averaged(model, image, Views())
        best, second = model(model.normalize(torch.from_numpy(image[None])))[0].topk(2, 0).values
    assert ((averaged.numpy() == default) | (best - second < 1e-4).numpy()).all()


def test_read_only_images_are_predicted_without_a_warning(model: SegmentationModel) -> None:
    """As the images of a memory-mapped pack; PyTorch warns once per process."""
    image = picture(32, 40)
    image.flags.writeable = False
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segcoord.predict(model, image)
    torch.set_warn_always(False)


@pytest.mark.parametrize("overlap", [0, 1, 8])
@pytest.mark.parametrize("size", [(64, 96), (41, 77), (16, 50)])
def test_tiles_equal_the_whole_image_for_a_one_pixel_receptive_field(size, overlap) -> None:
    model, image = local_model(1), picture(*size)
    tiled = segcoord.predict(model, image, Views(tile=(24, 32), overlap=overlap))
    assert (tiled == segcoord.predict(model, image)).all()
    assert len(np.unique(tiled)) > 1


def test_a_flipped_image_gives_the_flipped_prediction(model: SegmentationModel) -> None:
    """At 64x96, a multiple of the stride, without one-sided padding."""
    image, views = picture(64, 96), Views((0.5, 1.0), flip=True)
    flipped = segcoord.predict(model, np.ascontiguousarray(image[:, ::-1]), views)
    assert (flipped[:, ::-1] == segcoord.predict(model, image, views)).mean() > 0.999


@given(length=st.integers(1, 300), tile=st.integers(1, 100), overlap=st.integers(0, 99))
def test_tiles_cover_the_image_and_stay_inside(length: int, tile: int, overlap: int) -> None:
    views = Views(tile=(tile, tile), overlap=min(overlap, tile - 1))
    rows = [rows for rows, _ in views.tiles((length, 1))]
    assert rows[0].start == 0
    assert rows[-1].stop == length
    for row in rows:
        assert row.stop - row.start == min(tile, length)
    for row, following in itertools.pairwise(rows):
        assert row.start < following.start <= row.stop - views.overlap
    # the number of tiles in slice_inference
    step = tile - views.overlap
    assert len(rows) == max(length - tile + step - 1, 0) // step + 1


def test_sizes_are_rounded_half_up() -> None:
    assert scaled_size((375, 500), 0.5) == (188, 250)
    assert scaled_size((1, 3), 0.3) == (1, 1)
    assert scaled_size((1024, 2048), 1.75) == (1792, 3584)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (1.0, 0.0)}, "scales: found 0, expected above 0, and 16 at most"),
        ({"scales": (-0.5,)}, "scales: found -0.5"),
        ({"scales": (float("nan"),)}, "scales: found nan"),
        ({"scales": (float("inf"),)}, "scales: found inf"),
        ({"scales": (0.5, 75.0)}, "scales: found 75, expected above 0, and 16 at most"),
        ({"scales": (0.5, 1.0, 0.5)}, "found 0.5 twice"),
        ({"scales": ()}, "found none"),
        ({"tile": (0, 5)}, "tile: found 0x5"),
        ({"tile": (64, 32), "overlap": 32}, "found 32, expected 0 to 31, for a tile of 64x32"),
        ({"tile": (64, 32), "overlap": -1}, "found -1, expected 0 to 31"),
        ({"overlap": 5}, "overlap: found 5 without tiles"),
    ],
)
def test_invalid_views_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Views(**settings)


@pytest.mark.parametrize("text", ["769", "769x", "x769", "769,769", "7.5x8", "-3x4", "a"])
def test_tile_option_is_height_x_width(text: str) -> None:
    assert parse_tile("769x513") == (769, 513)
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        parse_tile(text)


def test_views_as_text_and_json() -> None:
    assert str(Views()) == ""
    assert str(Views((0.5, 1.0, 1.75), True)) == "multi-scale 0.5 1 1.75 + flip"
    assert str(Views(tile=(769, 769), overlap=256)) == "tiles of 769x769 overlapping by 256"
    plain = Views().to_dict()
    assert plain == {"scales": [1.0], "flip": False, "tiles": None, "average_of_views": None}
