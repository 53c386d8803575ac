"""OpenMP's waiting is limited before PyTorch reads its variables, unless the user set one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segcoord.utils.cpu import limit_busy_waiting

VARIABLES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")


@pytest.mark.parametrize("given", [None, *VARIABLES])
def test_variables_of_the_user_are_kept(given: str | None, monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "7")
    limit_busy_waiting()
    found = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    expected = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    assert found == (expected if given is None else {given: "7"})


def test_commands_limit_it_before_pytorch_is_imported() -> None:
    code = (
        "import os, sys\n"
        "from segcoord.cli import main\n"
        "def command(*_):\n"
        "    assert 'torch' not in sys.modules\n"
        "    return int(os.environ['GOMP_SPINCOUNT'])\n"
        "assert main.run(command, 'x', []) == 1000\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
