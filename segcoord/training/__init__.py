"""The training loop, losses, optimizer, resume, several devices, the run's folder, tables of runs.

Nothing here exports a model; what a trained model needs to run lives in `inference`.
"""
