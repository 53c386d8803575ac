"""Networks: attention, encoders, decoders, `create_model`, weights, checkpoints, the Hub.

Nothing here reads images, runs a training step or computes a score.
"""

from segcoord.utils.lazy_imports import import_timm

import_timm()
