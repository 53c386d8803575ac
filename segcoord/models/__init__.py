"""The networks: attention, encoders, decoders, `create_model`, weights, checkpoint files, the hub.

Nothing here reads images, runs a training step or computes a score.
"""
