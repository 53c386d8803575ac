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
from segcoord.inference.tta import MIN_ROWS, View, average_classes, average_probabilities, views_of
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


def predict_averaged(model: SegmentationModel, image: np.ndarray, views: Views) -> Tensor:
    return average_classes(views_of(model, image, views))


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


def distance(position: Tensor, start: int, stop: int, length: int) -> Tensor:
    """To the edges of a tile inside the image; a small one right at the edge."""
    far = torch.full_like(position, length)
    left = position - start if start > 0 else far
    right = stop - position if stop < length else far
    return torch.minimum(left, right).clamp(min=1e-3)


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
            th, tw = (min(t, n) for t, n in zip(views.tile or (h, w), (h, w)))
            total_weight = torch.zeros(height, width, dtype=torch.float64)
            tops, lefts = ([s.start for s in starts] for starts in views.tiles((h, w)))
            for top in tops:
                for left in lefts:
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
                    weight = distance(y, top, top + th, h)[:, None] * distance(
                        x, left, left + tw, w
                    )
                    logits += up * weight * inside
                    total_weight += weight * inside
            assert (total_weight > 0).all()
            view = (logits / total_weight).softmax(0)
            total += view.flip(2) if flipped else view
    return total / views.count


def check(model: SegmentationModel, image: np.ndarray, views: Views) -> None:
    """Compare with the reference, except where classes are equal up to rounding."""
    with torch.inference_mode():
        classes = predict_averaged(model, image, views)
        same, probabilities = average_probabilities(views_of(model, image, views))
        expected = reference(model, image, views)
    assert classes.dtype == torch.uint8
    assert torch.equal(same, classes)
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
        for rows, values in ((5, 1), (1, 6 * 101 * 7), (100, 1)):
            monkeypatch.setattr("segcoord.inference.tta.MIN_ROWS", rows)
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
    with torch.inference_mode():
        best, second = model(model.normalize(torch.from_numpy(image[None])))[0].topk(2, 0).values
    equal = tiled == segcoord.predict(model, image)
    assert (equal | (best - second < 1e-5).numpy()).all()  # weights sum to 1 up to rounding
    assert equal.mean() > 0.99
    assert len(np.unique(tiled)) > 1


class ContextNet(nn.Module):
    """Adds the mean of the whole input to local logits, as DeepLab's image pooling does."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.mix = nn.Conv2d(3, 5, 1)
        nn.init.normal_(self.mix.weight, std=4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, self.stride) - torch.tensor([0, 0.4, 2 / 3]).view(3, 1, 1)  # of gray
        return self.mix(x + 4 * x.mean((2, 3), keepdim=True))


def seam_ratio(model: SegmentationModel, views: Views) -> float:
    """Class changes between the rows and columns at tile edges, over the median elsewhere."""
    changes = [0, 0]
    for seed in range(4):  # of pictures that are alike everywhere
        spots = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        image = cv2.resize(spots, (320, 320), interpolation=cv2.INTER_LINEAR)
        classes = segcoord.predict(model, image, views).astype(int)
        for axis in (0, 1):
            changes[axis] = changes[axis] + (np.diff(classes, axis=axis) != 0).sum(1 - axis)
    at_edges, elsewhere = [], []
    for counts, tiles in zip(changes, views.tiles((320, 320))):
        edges = sorted({n - 1 for s in tiles for n in (s.start, s.stop)} - {-1, 319})
        at_edges += counts[edges].tolist()
        alike = {*range(15, 319, 16)}  # of the same phase to the logits and the spots
        assert alike >= {*edges}
        elsewhere += counts[sorted(alike - {*edges})].tolist()
    return float(np.mean(at_edges) / np.median(elsewhere))


@pytest.mark.parametrize("stride", [1, 8, 16])
@pytest.mark.parametrize("tile", [(160, 160), (160, 320)])
def test_tiles_leave_no_seams(stride: int, tile: tuple[int, int]) -> None:
    """Although the logits of each tile have an offset of their own."""
    torch.manual_seed(5)
    model = wrapped(ContextNet(stride), stride, 5)
    blended, abrupt = (seam_ratio(model, Views(tile=tile, overlap=o)) for o in (None, 0))
    assert blended <= 1.2
    assert abrupt > 2  # the measure finds seams


def test_only_logits_of_the_rows_in_progress_are_kept(model, monkeypatch) -> None:
    kept, predict_row = [], View._predict_row

    def record(view: View, span: object) -> object:
        kept.append(sum(tile.numel() for row in view._live for tile in row.tiles))
        return predict_row(view, span)

    monkeypatch.setattr(View, "_predict_row", record)
    image, views = picture(800, 64), Views(tile=(64, 64), overlap=16)
    monkeypatch.setattr("segcoord.inference.tta.BAND", 1)
    segcoord.predict(model, image, views)
    assert len(kept) == 17
    rows_of_logits = max(kept) / (6 * 8)  # 6 classes, 8 columns
    assert rows_of_logits <= (16 + MIN_ROWS) / 8 + 2  # of 100


def test_a_flipped_image_gives_the_flipped_prediction(model: SegmentationModel) -> None:
    """At 64x96, a multiple of the stride, without one-sided padding."""
    image, views = picture(64, 96), Views((0.5, 1.0), flip=True)
    flipped = segcoord.predict(model, np.ascontiguousarray(image[:, ::-1]), views)
    assert (flipped[:, ::-1] == segcoord.predict(model, image, views)).mean() > 0.999


@given(length=st.integers(1, 300), tile=st.integers(1, 100), overlap=st.integers(0, 99))
def test_tiles_cover_the_image_and_stay_inside(length: int, tile: int, overlap: int) -> None:
    views = Views(tile=(tile, tile), overlap=min(overlap, tile - 1))
    rows, _ = views.tiles((length, 1))
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
