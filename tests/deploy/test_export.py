"""Exported files compute what the checkpoint computes, at any size, and describe themselves."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import shaken
from huggingface_hub import ModelCard

import segcoord
from segcoord.cli.main import main
from segcoord.config.decoders import STRIDES
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.deploy import onnx, openvino, pt2
from segcoord.deploy.graph import image_to_mask_graph, network_graph, traced_size
from segcoord.deploy.quantize import GraphInputs
from segcoord.deploy.verify import SIZES, assert_within_tolerance, synthetic, verify
from segcoord.inference.exported import network_file, read_description
from segcoord.inference.runtimes import open_net
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.sessions import openvino_core
from segcoord.models.attention import CoordAtt
from segcoord.models.checkpoint import read_checkpoint
from segcoord.utils.errors import UserError

LABELS = LabelSet([LabelClass(f"thing {i}", (40 * i, 255 - 40 * i, 7), i) for i in range(5)])
ATTENTION, SMALLEST = "mobilenetv2_ca_050", "test_efficientnet"


def save_small(
    folder: Path, decoder: str = "deeplabv3", stride: int = 16, encoder=SMALLEST
) -> Path:
    torch.manual_seed(0)
    model = segcoord.create_model(
        encoder, 5, stride, decoder=decoder, labels=LABELS, mean=[0.4, 0.5, 0.6]
    )
    path = folder / "best.ckpt"
    segcoord.save(shaken(model), path, progress={"best": 0.375, "step": 12})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("small"))


def export(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["export", f"--checkpoint={checkpoint}", f"--out={out}", *options])


def embedded_metadata(path: Path, fmt: str) -> dict:
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


# Each decoder at each stride but the default, each format at each precision but int8; `exported` is
# deeplabv3 at 16 as onnx fp32. Masks where they are quick, or their code differs.
CASES = [
    ("deeplabv3", 8, "torchscript", "fp32", ATTENTION, True),
    ("deeplabv3plus", 16, "openvino", "fp32", SMALLEST, True),
    ("deeplabv3plus", 8, "torchscript", "fp16", SMALLEST, False),
    ("pan", 16, "pt2", "fp32", SMALLEST, False),
    ("pan", 32, "openvino", "fp16", SMALLEST, True),
    ("unet", 32, "onnx", "fp16", SMALLEST, False),
    ("fpn", 32, "pt2", "fp16", SMALLEST, False),
    ("light", 32, "openvino", "fp32", ATTENTION, False),
]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize(("decoder", "stride", "fmt", "precision", "encoder", "masks"), CASES)
def test_each_decoder_and_format_is_exported_whole(
    decoder, stride, fmt, precision, encoder, masks, tmp_path: Path, capsys
) -> None:
    checkpoint = save_small(tmp_path, decoder, stride, encoder)
    out = tmp_path / "export" / "model"
    options = [f"--format={fmt}", f"--precision={precision}"]
    assert export(checkpoint, out, *options, *["--image-to-mask"][:masks]) == 0
    printed = capsys.readouterr().out
    assert "largest logit error" in printed
    names = [network_file(out, fmt, s).name for s in ("model", "image_to_mask")[: 1 + masks]]
    assert all(printed.count(f"{name} ") >= len(SIZES) for name in names)
    assert [p.name for p in out.parent.iterdir()] == ["model"]
    assert segcoord.load(out).labels == LABELS
    card = (out / "README.md").read_text()
    assert "| 3 | thing 3 | #788707 |" in card and "37.50 %" in card
    assert_folder_matches(out, checkpoint, fmt, precision, names)


def test_onnx_folder_is_whole(exported: Path, tiny_run: Path) -> None:
    names = ["model.onnx", "image_to_mask.onnx"]
    assert_folder_matches(exported, tiny_run / "best.ckpt", "onnx", "fp32", names)


def assert_folder_matches(
    out: Path, checkpoint: Path, fmt: str, precision: str, names: list[str]
) -> None:
    """The folder's masks are the checkpoint's; files, segcoord.json and card describe it."""
    model, expected_model = segcoord.load(out), segcoord.load(checkpoint)
    score = read_checkpoint(checkpoint)["progress"]["best"]
    assert (model.precision, expected_model.runtime) == (precision, "torch")
    assert expected_model.precision == "fp32"
    image_to_mask = [open_net(out / name, fmt, model.runtime) for name in names[1:]]
    least = 0.9999 if precision == "fp32" else 0.97
    for image in synthetic(2, (61, 83)):
        expected = segcoord.predict(expected_model, image)
        assert (segcoord.predict(model, image) == expected).mean() >= least
        for net in image_to_mask:
            assert (net(torch.from_numpy(image)[None])[0].numpy() == expected).mean() >= least

    description = read_description(out)
    assert description["checkpoint"]["miou"] == score
    assert [c["file"] for c in description["checks"]] == [name for name in names for _ in SIZES]
    for name in names:
        metadata = embedded_metadata(out / name, fmt)
        assert metadata["model"] == expected_model.to_dict()
        assert metadata["export"]["precision"] == precision
        assert metadata["checkpoint"] == {"miou": score}
        assert {"segcoord", "torch", "timm"} <= metadata["export"]["versions"].keys()
        assert str(checkpoint.parent) not in json.dumps(metadata)
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "segcoord"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_iou", round(score, 4))
    s = expected_model.output_stride
    with torch.no_grad():
        d = 8 * s // expected_model.net(torch.zeros(1, 3, 8 * s, 8 * s)).shape[2]
    inputs = f"`image`: float32 (N, 3, H, W) RGB, H and W multiples of {s}"
    outputs = f"`logits`: float32 (N, {len(expected_model.labels)}, H/{d}, W/{d})"
    assert f"| `{names[0]}` | {inputs} | {outputs} |" in card.text
    if precision == "fp16":
        weights = out / ("model.bin" if fmt == "openvino" else names[0])
        floats = sum(p.numel() for p in expected_model.parameters())
        assert weights.stat().st_size < 3 * floats  # two bytes each, and the graph


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


def test_a_file_of_fixed_size_runs_in_opencv(tmp_path: Path, capsys) -> None:
    import onnx as onnx_package

    checkpoint, out, size = save_small(tmp_path, encoder=ATTENTION), tmp_path / "out", (64, 96)
    assert export(checkpoint, out, "--format=onnx", "--size=64x96") == 0
    assert capsys.readouterr().out.count("model.onnx in OpenCV") == 3
    graph = onnx_package.load(out / "model.onnx").graph
    dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, *size]
    assert not {node.op_type for node in graph.node} & {"Shape", "Gather", "If", "Loop"}
    assert "float32 (1, 3, 64, 96) RGB" in (out / "README.md").read_text()

    model, expected_model = segcoord.load(out), segcoord.load(checkpoint)
    image = synthetic(1, (50, 80))[0]
    expected_model.fixed_size = size  # padded to the same size
    assert (segcoord.predict(model, image) == segcoord.predict(expected_model, image)).all()
    large = synthetic(1, (70, 100))[0]
    with pytest.raises(UserError, match=r"found an image of 70x100 .* --tile 64x96"):
        segcoord.predict(model, large)
    assert segcoord.predict(model, large, Views(tile=size)).shape == (70, 100)


def test_cases_cover_every_decoder_and_stride() -> None:
    every = {(decoder, stride) for decoder, strides in STRIDES.items() for stride in strides}
    assert {case[:2] for case in CASES} == every - {("deeplabv3", 16)}


def test_verified_sizes_differ_from_the_traced_size() -> None:
    for decoder, strides in STRIDES.items():
        model = segcoord.create_model(SMALLEST, 5, strides[0], decoder=decoder)
        _, h, w = traced_size(model)
        padded = model.padded_size(h, w)
        assert padded not in {model.padded_size(*size) for _, *size in SIZES if size != [1, 1]}
    assert {n for n, _, _ in SIZES} == {1, 2}
    assert any(h % 2 and w % 2 for _, h, w in SIZES)


coord_att = CoordAtt.forward


def static_scale(self: CoordAtt, x: torch.Tensor) -> torch.Tensor:
    """Divides by the traced number of columns: no error, but a wrong result at other sizes."""
    return coord_att(self, x) * (x.shape[3] / int(x.shape[3]))


def static_rows(self: CoordAtt, x: torch.Tensor) -> torch.Tensor:
    """Expands to the traced number of rows: fails at other sizes."""
    return coord_att(self, x).expand(-1, -1, int(x.shape[2]), -1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("forward", "message"),
    [(static_scale, "disagrees with the checkpoint"), (static_rows, "fails on 1 images of")],
)
def test_nothing_is_left_of_a_file_that_disagrees(
    forward, message: str, tiny_run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(CoordAtt, "forward", forward)
    assert export(tiny_run / "best.ckpt", tmp_path / "model", "--format=torchscript") == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_int8_reports_its_loss_of_miou(tiny_run: Path, tmp_path: Path, capsys) -> None:
    """A briefly trained model, calibrated on its own training images."""
    out = tmp_path / "int8"
    options = ["--format=openvino", "--precision=int8", "--calibration=6", "--data.workers=0"]
    assert export(tiny_run / "best.ckpt", out, *options) == 0
    int8 = read_description(out)["int8"]
    assert (int8["split"], int8["images"]) == ("val", 6)
    assert (int8["calibrated_on"], int8["calibration"]) == ("train", 6)
    best = read_checkpoint(tiny_run / "best.ckpt")["progress"]["best"]
    assert int8["miou_before"] == pytest.approx(best, abs=1e-4)
    assert abs(int8["miou_after"] - int8["miou_before"]) < 0.1
    assert f"{100 * int8['miou_after']:.2f} % at int8" in capsys.readouterr().out
    (result,) = ModelCard.load(out / "README.md").data.eval_results
    assert result.metric_value == round(int8["miou_after"], 4)
    assert result.dataset_name == "custom"
    weights = sum(p.stat().st_size for p in out.glob("model.*"))
    assert weights < 0.5 * (tiny_run / "best.ckpt").stat().st_size


def test_onnx_int8_is_small_and_agrees(
    exported: Path, tiny_run: Path, tmp_path, monkeypatch
) -> None:
    float_file, path = exported / "model.onnx", tmp_path / "int8.onnx"
    monkeypatch.setattr(onnx, "write", lambda _graph, to, _metadata: shutil.copy(float_file, to))
    model = segcoord.load(tiny_run / "best.ckpt", fold=False)
    graph, images = network_graph(model), synthetic(4, (96, 128))
    onnx.quantize(graph, path, {"a": 1}, GraphInputs(graph, images))
    assert path.stat().st_size < 0.4 * float_file.stat().st_size
    assert embedded_metadata(path, "onnx") == {"a": 1}
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
        (["--format=pt2", "--size=64x64"], "--size: can't be combined with --format pt2"),
        (["--format=onnx", "--size=64x64", "--image-to-mask"], "combined with --image-to-mask"),
        (["--format=onnx", "--size=big"], "--size: found 'big', expected HEIGHTxWIDTH"),
        (["--format=onnx", "--size=64x100"], "the next larger size is 64x112"),
        (["--format=onnx", "--split=val"], "--split: only --precision int8 reads"),
        (["--format=onnx", "--precision=fp16", "--precision", "int8"], "required: data.layout"),
    ],
)
def test_bad_options(options: list[str], message: str, checkpoint, tmp_path, capsys) -> None:
    assert export(checkpoint, tmp_path / "model", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format=pt2"], "not supported for pt2; use --format onnx or openvino"),
        (["--format=onnx", "--calibration=17"], "--calibration: found 17, expected 1 to 16"),
    ],
)
def test_bad_int8_options(options: list[str], message: str, tiny_run, tmp_path, capsys) -> None:
    assert export(tiny_run / "best.ckpt", tmp_path / "model", "--precision=int8", *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_kept(checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert export(checkpoint, tmp_path, "--format=torchscript") == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("fmt", ["openvino", "torchscript"])
def test_full_disk_is_reported_and_nothing_left(fmt: str, checkpoint, tmp_path, capsys) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        assert export(checkpoint, tmp_path / "model", f"--format={fmt}") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "model: could not be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(checkpoint: Path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("segcoord.inference.sessions.find_spec", lambda name: None)
    assert export(checkpoint, tmp_path / "model", "--format=openvino") == 1
    assert "pip install 'segcoord[openvino]'" in capsys.readouterr().err


def test_a_pt2_file_of_masks_needs_two_strides(checkpoint: Path, tmp_path: Path) -> None:
    """`export` verifies it from there on; `model.pt2` is verified from one stride on."""
    model, path = segcoord.load(checkpoint, fold=False), tmp_path / "masks.pt2"
    graph = image_to_mask_graph(model)
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
