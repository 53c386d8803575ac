"""Backbones, registered in timm by importing this package."""

from segcoord.models.encoders import efficientnet, mobilenetv2, mobilenext  # noqa: F401
