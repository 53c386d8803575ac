"""Copy of the console output of a run, for its log.txt."""

from __future__ import annotations

import shlex
import sys
import traceback
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

from rich.console import Console, ConsoleRenderable, RenderHook
from rich.control import Control

from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import AppendOnlyFile

LOG_WIDTH = 100  # of tables, in characters


class RunLog(RenderHook):
    """Context manager that records the console output, and the exception that ends it, as text.

    The text stays in memory until `write_to` names the file. Progress bars and colors are dropped.
    Writes that fail, for example on a full disk, are retried with the next output.
    """

    def __init__(self) -> None:
        self.text = StringIO()
        self.plain = Console(
            file=self.text, width=LOG_WIDTH, color_system=None, highlight=False, markup=False
        )
        self.file: AppendOnlyFile | None = None
        self.warned = False

    def __enter__(self) -> RunLog:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.text.write(f"# {now} {shlex.join(sys.argv)}\n")
        console.push_render_hook(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        console.pop_render_hook()
        if isinstance(error, UserError):
            self.text.write(f"error: {error}\n")
        elif error is not None:
            self.text.write("".join(traceback.format_exception(error)))
        self._write()

    def write_to(self, path: Path) -> None:
        """Append the output so far, and all later output, to this file."""
        self.file = AppendOnlyFile(path)
        self._write()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich with each output, before it adds the progress bars."""
        output = [each for each in renderables if not isinstance(each, Control)]
        if output:
            self.plain.print(*output, sep="", soft_wrap=True)
            self._write()
        return renderables

    def _write(self) -> None:
        if self.file is None:
            return
        new = "\n".join(line.rstrip() for line in self.text.getvalue().split("\n"))
        self.text.seek(0)
        self.text.truncate()
        try:
            self.file.add(new.encode())
        except OSError as error:
            if not self.warned:
                self.warned = True
                reason = error.strerror or error
                console.print(f"log.txt: can't be written, continuing: {reason}", style="bold red")
