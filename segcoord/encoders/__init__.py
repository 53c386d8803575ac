"""Backbones, registered in timm by importing this package."""

from segcoord.encoders import efficientnet, mobilenetv2, mobilenext  # noqa: F401
