"""Semantic segmentation for small machines.

Importing this package is quick and changes nothing in the process but one thing: when timm is
imported, before or after, our backbones are registered in it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from segcoord.attention import CoordAtt as CoordAtt
    from segcoord.checkpoints import load as load
    from segcoord.checkpoints import save as save
    from segcoord.errors import UserError as UserError
    from segcoord.inference import predict as predict
    from segcoord.inference import predict_probabilities as predict_probabilities
    from segcoord.metrics import MeanIoU as MeanIoU
    from segcoord.model import create_model as create_model
    from segcoord.model import from_pretrained as from_pretrained
    from segcoord.views import Views as Views

_HOMES = {
    "CoordAtt": "attention",
    "MeanIoU": "metrics",
    "UserError": "errors",
    "Views": "views",
    "create_model": "model",
    "from_pretrained": "model",
    "load": "checkpoints",
    "predict": "inference",
    "predict_probabilities": "inference",
    "save": "checkpoints",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'segcoord' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segcoord.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


@wrapt.when_imported("timm")
def _register_encoders(_: object) -> None:
    importlib.import_module("segcoord.encoders")
