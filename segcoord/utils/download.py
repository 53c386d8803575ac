"""Download a file with a progress bar and verify it before it gets its name."""

import http.client
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

import rich.progress

from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

TIMEOUT = 30.0  # seconds without a byte from the server


def download_file(url: str, path: Path, check: Callable[[Path], str | None], by_hand: str) -> None:
    """Download `url` to `path`, which never names an incomplete or a wrong file.

    Args:
        url: HTTP or HTTPS.
        path: replaced when the download is complete and verified.
        check: describes what is wrong with the downloaded file; None if it is right.
        by_hand: appended to error messages, says how to get the file without this function.

    Raises:
        UserError: the download failed, `check` refused the file, or `path` can't be written.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "segcoord"})
    with atomic_write(path) as temporary:
        try:
            with (
                urllib.request.urlopen(request, timeout=TIMEOUT) as response,
                temporary.open("wb") as file,
            ):
                size = response.length or 0  # 0: the server sends no length
                bar = {"description": "download", "console": console, "transient": True}
                with rich.progress.wrap_file(response, size, **bar) as reader:
                    shutil.copyfileobj(reader, file)
                if size and file.tell() != size:
                    raise OSError(f"the connection ended after {file.tell():,} of {size:,} bytes")
        except (OSError, http.client.HTTPException) as error:  # HTTP and URL errors are OSErrors
            raise UserError(
                f"{url}: could not be fetched ({type(error).__name__}: {error}). "
                f"Check the network and the free space. {by_hand}"
            ) from error
        if problem := check(temporary):
            raise UserError(
                f"{url}: gave {problem}; not kept. Did the connection end early, or does a proxy "
                f"answer in its place? {by_hand}"
            )
