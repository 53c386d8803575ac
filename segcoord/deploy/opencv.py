"""Verifies ONNX files of a fixed size in OpenCV's dnn module."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from segcoord.deploy.graph import Graph
from segcoord.deploy.verify import Check
from segcoord.deploy.verify import verify as verify_net
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console


class OpenCvNet(nn.Module):
    """An ONNX file run by OpenCV's dnn module, with the engine that OpenCV 4 has.

    Raises:
        cv2.error: the engine can't read the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.dnn = cv2.dnn.readNetFromONNX(str(path), engine=cv2.dnn.ENGINE_CLASSIC)

    def forward(self, x: Tensor) -> Tensor:
        self.dnn.setInput(x.numpy())
        return torch.from_numpy(self.dnn.forward())


def verify(
    path: Path,
    graph: Graph,
    model: SegmentationModel,
    images: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int, int]],
) -> list[Check]:
    """`verify.verify` in OpenCV; prints why and returns no check if OpenCV can't read the file."""
    try:
        net = OpenCvNet(path)
    except cv2.error as error:
        console.print(f"{path.name}: not verified in OpenCV, which can't read it: {error.err}")
        return []
    return verify_net(net, f"{path.name} in OpenCV", graph, model, images, sizes=sizes)
