"""Exported files compute what the checkpoint does, at any size, and say what they are."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import shaken

import segcoord
from segcoord.cli.main import main
from segcoord.config.decoders import STRIDES
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.deploy import onnx, openvino, pt2, torchscript
from segcoord.deploy.graph import image_to_mask_graph, network_graph, traced_size
from segcoord.deploy.quantize import Inputs
from segcoord.deploy.verify import SIZES, assert_within_tolerance, synthetic, verify
from segcoord.inference.exported import network_file, read_description
from segcoord.inference.runtimes import open_net, openvino_core, runtime_of
from segcoord.models.attention import CoordAtt
from segcoord.models.checkpoint import read_checkpoint
from segcoord.utils.errors import UserError

LABELS = LabelSet([LabelClass(f"thing {i}", (40 * i, 255 - 40 * i, 7), i) for i in range(5)])


def small(decoder: str = "deeplabv3", stride: int = 16) -> segcoord.model.SegmentationModel:
    torch.manual_seed(0)
    return shaken(
        segcoord.create_model(
            "mobilenetv2_ca_050", 5, stride, decoder=decoder, labels=LABELS, mean=[0.4, 0.5, 0.6]
        )
    ).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "best.ckpt"
    segcoord.save(small(), path, progress={"best": 0.375, "step": 12})
    return path


def export(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["export", f"--checkpoint={checkpoint}", f"--out={out}", *options])


def inside(path: Path, fmt: str) -> dict:
    """The metadata that a file itself carries, as its own runtime reads it."""
    if fmt == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["segcoord"])
    if fmt == "openvino":
        return json.loads(openvino_core().read_model(path).get_rt_info("segcoord").value)
    extra = {"segcoord.json": ""}
    if fmt == "torchscript":
        torch.jit.load(path, _extra_files=extra)
    else:
        torch.export.load(path, extra_files=extra)
    return json.loads(extra["segcoord.json"])


# pt2 and ONNX take long to write, so ONNX is looked at where other tests need it too.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("fmt", "precision", "stems"),
    [
        ("openvino", "fp32", ["model", "image_to_mask"]),
        ("openvino", "fp16", ["model", "image_to_mask"]),
        ("torchscript", "fp32", ["model", "image_to_mask"]),
        ("torchscript", "fp16", ["model", "image_to_mask"]),
        ("pt2", "fp32", ["model"]),
    ],
)
def test_a_folder_is_whole(fmt, precision, stems, checkpoint, tmp_path, capsys) -> None:
    out = tmp_path / "model"
    options = [f"--format={fmt}", f"--precision={precision}"]
    assert export(checkpoint, out, *options, *["--image-to-mask"][: len(stems) - 1]) == 0
    printed = capsys.readouterr().out
    assert "largest logit error" in printed
    names = [network_file(out, fmt, stem).name for stem in stems]
    assert all(printed.count(f"{name} ") >= len(SIZES) for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert segcoord.load(out).labels == LABELS
    assert "| 3 | thing 3 | #788707 |" in (out / "README.md").read_text()
    assert "37.50 %" in (out / "README.md").read_text()
    look_at(out, checkpoint, fmt, precision, names)


def test_an_onnx_folder_is_whole(exported: Path, tiny_run: Path) -> None:
    names = ["model.onnx", "image_to_mask.onnx"]
    look_at(exported, tiny_run / "best.ckpt", "onnx", "fp32", names)


def look_at(out: Path, checkpoint: Path, fmt: str, precision: str, names: list[str]) -> None:
    """Its masks are the checkpoint's, and all that describes it is there, in the files too."""
    model, plain = segcoord.load(out), segcoord.load(checkpoint)
    score = read_checkpoint(checkpoint)["progress"]["best"]
    assert (model.precision, plain.precision, plain.runtime) == (precision, "fp32", "torch")
    masks = [open_net(out / name, fmt, model.runtime) for name in names[1:]]
    least = 0.9999 if precision == "fp32" else 0.97
    for image in synthetic(2, (61, 83)):
        expected = segcoord.predict(plain, image)
        assert (segcoord.predict(model, image) == expected).mean() >= least
        for net in masks:
            assert (net(torch.from_numpy(image)[None])[0].numpy() == expected).mean() >= least

    told = read_description(out)
    assert told["checkpoint"]["miou"] == score
    assert [c["file"] for c in told["checks"]] == [name for name in names for _ in SIZES]
    for name in names:
        within = inside(out / name, fmt)
        assert within["model"] == plain.to_dict()
        assert (within["export"]["precision"], within["checkpoint"]) == (precision, {"miou": score})
        assert {"segcoord", "torch", "timm"} <= within["export"]["versions"].keys()
        assert str(checkpoint.parent) not in json.dumps(within)
    card = (out / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: segcoord" in card
    takes = "`image`: float32 (N, 3, H, W) RGB, H and W multiples of 16"
    gives = f"`logits`: float32 (N, {len(plain.labels)}, H/16, W/16)"
    assert f"| `{names[0]}` | {takes} | {gives} |" in card
    if precision == "fp16":
        weights = out / names[0] if fmt == "torchscript" else out / "model.bin"
        floats = sum(p.numel() for p in plain.parameters())
        assert weights.stat().st_size < 3 * floats  # two bytes each, and what is around them


# Each decoder at each stride but the default, in one of the formats that are quick to write.
CASES = [
    ("deeplabv3", 8, "torchscript"),
    ("deeplabv3plus", 16, "openvino"),
    ("deeplabv3plus", 8, "torchscript"),
    ("pan", 16, "torchscript"),
    ("pan", 32, "openvino"),
    ("unet", 32, "torchscript"),
    ("fpn", 32, "torchscript"),
]


@pytest.mark.parametrize(("decoder", "stride", "fmt"), CASES)
def test_every_decoder_and_stride(decoder: str, stride: int, fmt: str, tmp_path: Path) -> None:
    """The network and what stands around it, compared as the command compares them."""
    model = small(decoder, stride)
    graphs = network_graph(model), image_to_mask_graph(model)
    paths = [network_file(tmp_path, fmt, stem) for stem in ("model", "image_to_mask")]
    if fmt == "openvino":
        openvino.write(graphs[0], paths[0], {})
        openvino.write_around(paths[0], graphs[1], paths[1], {}, half=False)
    else:
        torchscript.write(graphs[0], paths[0], {})
        torchscript.write(graphs[1], paths[1], {})
    runtime = runtime_of(fmt, None, tmp_path)
    for graph, path in zip(graphs, paths):
        assert_within_tolerance(
            verify(open_net(path, fmt, runtime), path.name, graph, model, synthetic()), "fp32"
        )


@pytest.mark.parametrize("encoder", ["mobilenetv2_ca_050", "mobilenetv2_ca_x_050"])
def test_openvino_pools_rows_and_columns_of_any_length(encoder: str, tmp_path: Path) -> None:
    model = segcoord.create_model(encoder, 4).eval()
    openvino.write(network_graph(model), tmp_path / "model.xml", {})
    ops = openvino_core().read_model(tmp_path / "model.xml").get_ops()
    means = [op for op in ops if op.get_type_name() == "ReduceMean"]
    assert [op.input_value(1).get_node().get_data().tolist() for op in means] == [[2, 3]]  # ASPP's
    net = open_net(tmp_path / "model.xml", "openvino", "openvino")
    for size in ((16, 16), (16, 4096), (2064, 32)):
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(net(x), model.net(x), rtol=1e-4, atol=1e-5)


def test_every_case_is_there() -> None:
    every = {(decoder, stride) for decoder, strides in STRIDES.items() for stride in strides}
    assert {case[:2] for case in CASES} == every - {("deeplabv3", 16)}


@pytest.mark.parametrize("decoder", STRIDES)
def test_the_sizes_verified_are_not_the_traced_one(decoder: str) -> None:
    model = small(decoder, STRIDES[decoder][0])
    _, h, w = traced_size(model)
    padded = model.padded_size(h, w)
    assert padded not in {model.padded_size(*size) for _, *size in SIZES if size != [1, 1]}
    assert {n for n, _, _ in SIZES} == {1, 2}
    assert any(h % 2 and w % 2 for _, h, w in SIZES)


def frozen(self: CoordAtt, x: torch.Tensor) -> torch.Tensor:
    """A pool divided by the number of columns that it was traced with: no error, another result."""
    rows = x.sum(3, keepdim=True) / int(x.shape[3])
    z_h, z_w = self._logits(rows, x.mean(2, keepdim=True))
    return x * z_w.sigmoid() * z_h.sigmoid()


def crashing(self: CoordAtt, x: torch.Tensor) -> torch.Tensor:
    """A gate of the number of rows that it was traced with."""
    z_h, z_w = self._logits(x.mean(3, keepdim=True), x.mean(2, keepdim=True))
    return x * z_w.sigmoid() * z_h.sigmoid().expand(-1, -1, int(x.shape[2]), -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("form", "message"), [(frozen, "disagrees with the checkpoint"), (crashing, "fails on 1 image")]
)
def test_a_file_that_disagrees_is_not_left(
    form, message: str, checkpoint, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(CoordAtt, "_plain", form)
    assert export(checkpoint, tmp_path / "model", "--format=torchscript") == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_int8_tells_what_it_costs(tiny_run: Path, tmp_path: Path, capsys) -> None:
    """A model that was trained a little, calibrated on its own training images."""
    out = tmp_path / "int8"
    options = ["--format=openvino", "--precision=int8", "--calibration=6", "--data.workers=0"]
    assert export(tiny_run / "best.ckpt", out, *options) == 0
    told = read_description(out)["int8"]
    assert (told["split"], told["images"]) == ("val", 6)
    assert (told["calibrated_on"], told["calibration"]) == ("train", 6)
    best = read_checkpoint(tiny_run / "best.ckpt")["progress"]["best"]
    assert told["miou_before"] == pytest.approx(best, abs=1e-4)
    assert abs(told["miou_after"] - told["miou_before"]) < 0.1
    assert f"{100 * told['miou_after']:.2f} % at int8" in capsys.readouterr().out
    weights = sum(p.stat().st_size for p in out.glob("model.*"))
    assert weights < 0.5 * (tiny_run / "best.ckpt").stat().st_size


def test_int8_by_onnx_runtime(exported: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Of a file in float32: its weights are bytes, and its masks nearly the same."""
    model = segcoord.load(tiny_run / "best.ckpt", fold=False)
    graph, path = network_graph(model), tmp_path / "int8.onnx"
    images = synthetic(4, (96, 128))
    onnx.quantize_file(exported / "model.onnx", path, {"a": 1}, iter(Inputs(graph, images)))
    assert path.stat().st_size < 0.4 * (exported / "model.onnx").stat().st_size
    assert inside(path, "onnx") == {"a": 1}
    assert_within_tolerance(
        verify(open_net(path, "onnx", "onnxruntime"), path.name, graph, model, images), "int8"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format=tflite"], "--format: found 'tflite', expected one of onnx, openvino"),
        (["--format=onnx", "--precision=int4"], "--precision: found 'int4', expected fp32"),
        (["--format=onnx", "--calibration=5"], "--calibration: only --precision int8 reads"),
        (["--format=pt2", "--data.root=x"], "--data.root: only --precision int8 reads"),
        (["--format=onnx", "--split=val"], "--split: only --precision int8 reads"),
        (["--format=onnx", "--precision=fp16", "--precision", "int8"], "required: data.layout"),
    ],
)
def test_bad_options(options: list[str], message: str, checkpoint, tmp_path, capsys) -> None:
    assert export(checkpoint, tmp_path / "model", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fmt", ["torchscript", "pt2"])
def test_int8_where_there_is_none(fmt: str, tiny_run: Path, tmp_path: Path, capsys) -> None:
    options = [f"--format={fmt}", "--precision=int8"]
    assert export(tiny_run / "best.ckpt", tmp_path / "model", *options) == 1
    assert f"{fmt} has no such form here; take onnx or openvino" in capsys.readouterr().err


def test_calibration_takes_what_is_there(tiny_run: Path, tmp_path: Path, capsys) -> None:
    options = ["--format=onnx", "--precision=int8", "--calibration=17"]
    assert export(tiny_run / "best.ckpt", tmp_path / "model", *options) == 1
    assert "--calibration: found 17, expected 1 to 16" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_kept(checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert export(checkpoint, tmp_path, "--format=torchscript") == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("fmt", ["openvino", "torchscript"])
def test_a_full_disk_is_told_and_nothing_left(fmt: str, checkpoint: Path, tmp_path, capsys) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        assert export(checkpoint, tmp_path / "model", f"--format={fmt}") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "model: could not be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(checkpoint: Path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("segcoord.inference.runtimes.find_spec", lambda name: None)
    assert export(checkpoint, tmp_path / "model", "--format=openvino") == 1
    assert "pip install 'segcoord[openvino]'" in capsys.readouterr().err


def test_a_pt2_file_needs_two_strides(checkpoint: Path) -> None:
    """What `command.smallest` says, and that the network alone takes an image of one pixel."""
    model = small()
    graph = image_to_mask_graph(model)
    path = checkpoint.parent / "masks.pt2"
    pt2.write(graph, path, {})
    net = open_net(path, "pt2", "torch")
    assert net(torch.zeros(1, 17, 17, 3, dtype=torch.uint8)).shape == (1, 17, 17)
    with pytest.raises(UserError, match="fails on 1 images of 1x1"):
        verify(net, path.name, graph, model, synthetic())


def test_a_folded_model_is_not_saved(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fold=False"):
        segcoord.save(segcoord.load(checkpoint), tmp_path / "again.ckpt")
    segcoord.save(segcoord.load(checkpoint, fold=False), tmp_path / "again.ckpt")
    image = synthetic(1)[0]
    masks = [
        segcoord.predict(segcoord.load(p), image) for p in (checkpoint, tmp_path / "again.ckpt")
    ]
    assert np.array_equal(*masks)
