"""Encoders with attention, registered in timm on import, and their ImageNet weights."""

from segcoord.models.encoders import efficientnet, mobilenetv2, mobilenext  # noqa: F401
