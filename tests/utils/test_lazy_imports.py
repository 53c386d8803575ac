"""Placeholders for modules that an import loads and rarely uses."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from segcoord.utils.lazy_imports import _disable, _Placeholder, _placeholders


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Placeholder:
    """The placeholder of a module on the path, with one attribute."""
    (tmp_path / "heavy.py").write_text("version, value = '2', 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    placeholder = _Placeholder("heavy")
    placeholder.version = "2"
    yield placeholder
    sys.modules.pop("heavy", None)


def test_a_placeholder_has_its_attributes_only_within_the_block(heavy: _Placeholder) -> None:
    with _placeholders(heavy):
        import heavy as inside

        assert inside is heavy and inside.version == "2"
        assert not hasattr(inside, "__path__")
    assert "heavy" not in sys.modules
    assert importlib.import_module("heavy").value == 7


def test_any_other_attribute_imports_the_module(heavy: _Placeholder) -> None:
    with _placeholders(heavy):
        import heavy as inside

        assert inside.value == 7
        assert sys.modules["heavy"] is not heavy
    assert sys.modules["heavy"].value == 7
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = heavy.other


def test_an_imported_module_is_not_replaced(heavy: _Placeholder) -> None:
    module = importlib.import_module("heavy")
    with _placeholders(heavy):
        assert sys.modules["heavy"] is module
    assert sys.modules["heavy"] is module


def test_disable_decorates_with_and_without_arguments() -> None:
    @_disable
    def double(x: int) -> int:
        return 2 * x

    @_disable(recursive=False)
    def triple(x: int, *, plus: int) -> int:
        return 3 * x + plus

    assert (double(2), triple(2, plus=1)) == (4, 7)
    assert triple.__name__ == "triple"
