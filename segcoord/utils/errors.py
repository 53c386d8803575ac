"""The exception for errors that the user can fix; the commands print it without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A wrong file, setting or argument.

    The text says what was found, where, what was expected and what to do.

    Args:
        message: the whole text; or what was found and expected, if `path` and `remedy` are given
            separately to group files with the same problem.
        path: the wrong file; put before the message.
        remedy: what to do; put after the message.
        kind: short name of the problem; not part of the text.
    """

    def __init__(
        self, message: str, *, path: Path | str | None = None, remedy: str = "", kind: str = ""
    ) -> None:
        where = "" if path is None else f"{path}: "
        super().__init__(f"{where}{message} {remedy}" if remedy else f"{where}{message}")
        self.found, self.path, self.remedy, self.kind = message, path, remedy, kind


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means that CPU or GPU memory ran out; `torch.OutOfMemoryError` is one."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    messages = ("can't allocate memory", "MemoryError", "CUDA error: out of memory")
    return any(message in str(error) for message in messages)


@contextmanager
def explain_out_of_memory(
    size: tuple[int, int], remedy: str, path: Path | None = None
) -> Iterator[None]:
    """Re-raise an out-of-memory error at an image of size (H, W) as a UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory at {size[1]}x{size[0]} pixels."
        raise UserError(message, path=path, remedy=remedy) from error
