"""Checkpoints of untrained models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segcoord
from segcoord.data.labels import CITYSCAPES, VOC, LabelSet


def _save(path: Path, labels: LabelSet) -> Path:
    torch.manual_seed(0)
    segcoord.save(segcoord.create_model("mobilenetv2_ca_050", len(labels), labels=labels), path)
    return path


@pytest.fixture(scope="session")
def cityscapes_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("checkpoints") / "cityscapes.ckpt", CITYSCAPES)


@pytest.fixture(scope="session")
def voc_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("checkpoints") / "voc.ckpt", VOC)
