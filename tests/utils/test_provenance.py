"""What results record about their origin."""

from __future__ import annotations

import subprocess

import pytest
from helpers import ROOT

from segcoord.utils.provenance import origin


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_origin_has_the_commit_of_the_checkout() -> None:
    head = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True)
    assert head.startswith(origin()["commit"].removesuffix("+"))
