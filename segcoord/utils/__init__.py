"""What every room may use: errors, files, the terminal, threads, devices, distributed helpers.

Nothing here knows of images, models or settings, and nothing here imports another room.
"""
