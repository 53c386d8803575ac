"""Backbones, registered in timm by importing this package."""

from segcoord.encoders import mobilenetv2  # noqa: F401
