"""Replacing submodules of a network in place."""

from torch import nn


def replace_modules(model: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    """Replaces each key by its value, under all of its names; the order of modules is kept.

    Args:
        model: changed in place; not itself a key.
        replacements: old module -> new module.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])
