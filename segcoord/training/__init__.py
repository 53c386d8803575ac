"""The training loop, losses, optimizer, resume, several devices, run folders, tables of runs.

Nothing here exports a model; what a trained model needs at run time is in `inference`.
"""
