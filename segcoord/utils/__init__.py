"""Shared helpers: errors, files, the terminal, threads, devices, distributed reductions.

Nothing here knows about images, models or settings, and nothing imports another package.
"""
