"""Import timm and Lightning Fabric without modules that they import and rarely use.

torchvision and timm import torch._dynamo for a check and a decorator. Fabric imports torchmetrics,
which imports matplotlib and scipy.signal, for its version. These take more than half of the time of
`import timm, lightning_fabric`. Here, they get placeholders, which import the module on use.
"""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


class _Placeholder(ModuleType):
    """Stands for a module; reading any attribute that is not set here imports the module."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_load(self.__name__), name)


def import_timm() -> None:
    """Import timm without torch._dynamo, unless that is imported already."""
    dynamo, utils = _Placeholder(_DYNAMO), _Placeholder(_UTILS)
    dynamo.disable, utils.is_compile_supported = _disable, _is_compile_supported
    with _placeholders(dynamo, utils):
        importlib.import_module("timm")


def import_fabric() -> None:
    """Import lightning_fabric without torchmetrics, unless that is imported already."""
    torchmetrics = _Placeholder("torchmetrics")
    torchmetrics.__version__ = importlib.metadata.version("torchmetrics")
    with _placeholders(torchmetrics):
        importlib.import_module("lightning_fabric")


@contextmanager
def _placeholders(*modules: _Placeholder) -> Iterator[None]:
    if modules[0].__name__ not in sys.modules:
        sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        _remove_placeholders()


def _remove_placeholders() -> None:
    for name in [name for name, m in sys.modules.items() if isinstance(m, _Placeholder)]:
        del sys.modules[name]


def _load(name: str) -> ModuleType:
    _remove_placeholders()
    return importlib.import_module(name)


def _is_compile_supported(device_type: str) -> bool:
    return _load(_UTILS).is_compile_supported(device_type)


def _disable(fn: Callable | None = None, *args: object, **kwargs: object) -> Callable:
    if fn is None:
        return lambda fn: _disable(fn, *args, **kwargs)

    wrapped = functools.cache(lambda: _load(_DYNAMO).disable(fn, *args, **kwargs))

    @functools.wraps(fn)
    def disabled(*inputs: object, **options: object) -> object:
        return wrapped()(*inputs, **options)

    return disabled
