"""What the tests of imports share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not survive a power cut."""
    monkeypatch.setattr(os, "sync", lambda: None)
