"""Semantic segmentation for small machines.

Importing this package is fast and has one side effect: segcoord's encoders are registered in timm,
as soon as timm is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from segcoord.evaluation.mean_iou import MeanIoU as MeanIoU
    from segcoord.inference.load import load as load
    from segcoord.inference.predict import predict as predict
    from segcoord.inference.predict import predict_probabilities as predict_probabilities
    from segcoord.inference.scales_and_tiles import Views as Views
    from segcoord.models.attention import CoordAtt as CoordAtt
    from segcoord.models.checkpoint import save as save
    from segcoord.models.factory import create_model as create_model
    from segcoord.models.from_pretrained import from_pretrained as from_pretrained
    from segcoord.utils.errors import UserError as UserError

_MODULES = {
    "CoordAtt": "models.attention",
    "MeanIoU": "evaluation.mean_iou",
    "UserError": "utils.errors",
    "Views": "inference.scales_and_tiles",
    "create_model": "models.factory",
    "from_pretrained": "models.from_pretrained",
    "load": "inference.load",
    "predict": "inference.predict",
    "predict_probabilities": "inference.predict",
    "save": "models.checkpoint",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'segcoord' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segcoord.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


@wrapt.when_imported("timm")
def _register_encoders(_: object) -> None:
    importlib.import_module("segcoord.models.encoders")
