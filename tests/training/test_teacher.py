"""Distillation: what the teacher predicts, what learns from it, and which teachers are errors."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import command, interrupt_at, local_model, rows, weights
from torch import Tensor, nn

import segcoord
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import TeacherSettings, TrainConfig
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.models.segmentation import SegmentationModel
from segcoord.training import teacher as module
from segcoord.training.losses import cross_entropy, distillation_loss
from segcoord.training.segmentation import SegmentationLoss
from segcoord.training.teacher import Teacher
from segcoord.utils.errors import UserError

CPU = torch.device("cpu")
SETTINGS = TrainConfig(
    max_steps=1, teacher="teacher.ckpt", teacher_weight=0.5, teacher_temperature=2.0
)


@pytest.fixture
def network(tmp_path: Path, monkeypatch) -> SegmentationModel:
    """The model that every teacher of the test loads, with a normalization of its own."""
    (tmp_path / "teacher.ckpt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    model = local_model(4, seed=1)
    model.mean += 0.1
    model.std *= 2
    monkeypatch.setattr(module, "load", lambda path, device: model)
    return model


def teacher_of(model: SegmentationModel, scales: tuple[float, ...] = (1.0,)) -> Teacher:
    settings = TeacherSettings("teacher.ckpt", 0.5, 2.0, [*scales])
    return Teacher(settings, model.labels, (24, 20), CPU)


def batch_of(height: int = 24, width: int = 20) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    mask = torch.randint(0, 5, (2, height, width), generator=generator, dtype=torch.uint8)
    mask[:, ::3] = 255
    return {"image": image, "mask": mask}


def test_the_loss_is_that_of_both_and_only_the_student_learns(network: SegmentationModel) -> None:
    student, batch = local_model(8), batch_of()
    for each in (student, network):
        each.net.requires_grad_(True)
    loss_module = SegmentationLoss(student, SETTINGS, teacher=teacher_of(network)).train()
    loss = loss_module(batch)
    assert not loss_module.teacher(batch["image"]).requires_grad
    pixels = batch["image"].permute(0, 3, 1, 2) / 255
    soft = network((pixels - network.mean) / network.std).detach()
    logits = student((pixels - student.mean) / student.std)
    expected = cross_entropy(logits, batch["mask"])
    expected = expected + 0.5 * distillation_loss(logits, soft, batch["mask"], 2.0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.any() for p in student.parameters())
    assert not network.training
    assert {*loss_module.state_dict()} == {f"model.{name}" for name in student.state_dict()}
    compiled = torch.compile(loss_module, backend="eager")
    torch.testing.assert_close(compiled(batch), loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss_module(batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, loss, rtol=0.02, atol=0.02)


def test_padding_and_void_are_not_learnt(network: SegmentationModel) -> None:
    """Whatever the image shows where the mask is void, the loss is the same."""
    student, batch = local_model(1), batch_of()
    network.net[0] = nn.Identity()  # so that a pixel has the logits of its own color
    loss_module = SegmentationLoss(student, SETTINGS, teacher=teacher_of(network))
    before = loss_module(batch)
    batch["image"][batch["mask"] == 255] = 0
    torch.testing.assert_close(loss_module(batch), before)


def test_scales_average_probabilities(network: SegmentationModel) -> None:
    images = batch_of()["image"]
    x = network.normalize(images)
    mean = torch.zeros(2, 5, 24, 20)
    for size in ((24, 20), (12, 10), (36, 30)):
        logits = network(F.interpolate(x, size, mode="bilinear"))
        mean += F.interpolate(logits, (24, 20), mode="bilinear").softmax(1) / 3
    found = teacher_of(network, (1.0, 0.5, 1.5))(images)
    torch.testing.assert_close(found.softmax(1), mean)


def test_an_export_teaches_as_its_checkpoint(exported: Path, tiny_run: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8)
    logits = []
    for path in (exported, tiny_run / "best.ckpt"):
        labels = segcoord.load(path).labels
        state = torch.get_rng_state()
        teacher = Teacher(TeacherSettings(str(path), 1.0, 1.0, [1.0]), labels, (64, 48), CPU)
        assert torch.equal(torch.get_rng_state(), state)
        assert len(teacher.sha256) == 64
        logits.append(teacher(images))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


# -- whole runs


def test_a_run_with_a_teacher_resumes_exactly_and_needs_that_teacher(
    tiny_run: Path, sample_voc: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    teacher, moved = tmp_path / "teacher.ckpt", tmp_path / "moved.ckpt"
    shutil.copy(tiny_run / "best.ckpt", teacher)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--train.max_steps=3", f"--train.teacher={teacher}", "--train.ema_decay=0.9"]
    options += ["--train.teacher_scales=[1.0,0.5]", "--train.teacher_temperature=2"]
    options += ["--train.accumulate=2", "--train.aux_weight=0.4"]
    assert run(train, "train.py", command(sample_voc, whole, *options)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "mobilenetv2_ca_050, deeplabv3, output stride 16), weight 1, temperature 2" in printed
    with monkeypatch.context() as patch:
        interrupt_at(1, patch)
        assert run(train, "train.py", command(sample_voc, stopped, *options)) == 130
    capsys.readouterr()

    teacher.rename(moved)
    resume = [f"--resume={stopped}"]
    assert run(train, "train.py", resume) == 1
    assert f"train.teacher: {teacher}: no such" in " ".join(capsys.readouterr().err.split())
    shutil.copy(tiny_run / "last.ckpt", teacher)
    assert run(train, "train.py", resume) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"train.teacher ({teacher}) is not the file that the run started with" in error
    assert run(train, "train.py", [*resume, f"--train.teacher={moved}"]) == 0
    mine, theirs = weights(stopped), weights(whole)
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    assert rows(stopped) == rows(whole)


# -- teachers that can't be used


def test_the_loss_needs_the_setting_and_the_teacher(network: SegmentationModel) -> None:
    for settings, teacher in [(SETTINGS, None), (TrainConfig(max_steps=1), teacher_of(network))]:
        with pytest.raises(ValueError, match=r"for settings\.teacher"):
            SegmentationLoss(local_model(8), settings, teacher=teacher)


def error_of(path: Path | str, model: SegmentationModel, device: torch.device = CPU) -> str:
    settings = TeacherSettings(str(path), 1.0, 1.0, [1.0, 0.5])
    with pytest.raises(UserError) as caught:
        Teacher(settings, model.labels, (24, 20), device)
    assert str(caught.value).startswith(f"train.teacher: {path}: ")
    return str(caught.value)


def test_the_folder_of_a_run_names_its_best_checkpoint(tiny_run: Path) -> None:
    error = error_of(tiny_run, segcoord.load(tiny_run / "best.ckpt"))
    assert error.endswith(f"expected one of its checkpoints; give {tiny_run / 'best.ckpt'}")


def relabel(model: SegmentationModel, change) -> None:
    model.labels = LabelSet(change([*model.labels.classes]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:4], "found 4, expected 5; only in data.classes: class_4. Both"),
        (
            lambda c: [*c[:4], LabelClass("lamp", (0, 0, 9), 4)],
            "only in the teacher: lamp; only in data.classes: class_4. Both",
        ),
        (lambda c: [c[1], c[0], *c[2:]], "class 0 is 'class_1', expected 'class_0'"),
        (
            lambda c: [replace(c[0], color=(1, 2, 3)), *c[1:]],
            "'class_0' has color [1, 2, 3], expected [0, 0, 0]",
        ),
    ],
)
def test_other_classes_say_what_differs(network: SegmentationModel, change, message: str) -> None:
    relabel(network, change)
    assert message in error_of("teacher.ckpt", local_model(8))


def test_other_mask_values_are_no_difference(network: SegmentationModel) -> None:
    student = local_model(8)
    relabel(network, lambda classes: [replace(c, id=c.id + 10) for c in classes])
    settings = TeacherSettings("teacher.ckpt", 1.0, 1.0, [1.0])
    assert Teacher(settings, student.labels, (24, 20), CPU).model is network


def test_a_teacher_that_cant_predict_the_crops_is_an_error(network: SegmentationModel) -> None:
    network.fixed_size = (16, 16)
    assert "exported for 16x16 (height x width), too small for crops of 24x20" in error_of(
        "teacher.ckpt", network
    )
    network.fixed_size = None
    network.net.append(nn.Conv2d(5, 5, 9))
    assert "can't predict crops of 24x20 (height x width) at scales 1, 0.5: " in error_of(
        "teacher.ckpt", network
    )


def test_an_export_teaches_on_the_cpu_only(exported: Path) -> None:
    assert "found device cuda" in error_of(exported, local_model(8), torch.device("cuda"))
