"""Imports every module of segcoord: run with the required dependencies alone, no extras."""

import importlib
import pkgutil

import segcoord

names = [m.name for m in pkgutil.walk_packages(segcoord.__path__, "segcoord.")]
for name in names:
    if name != "segcoord.__main__":  # runs the command
        importlib.import_module(name)
print(f"{len(names)} modules imported")
