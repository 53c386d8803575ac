"""Find the images of an export by the names that its annotations give them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from segcoord.data.file_pattern import IMAGE_SUFFIXES, nfc
from segcoord.utils.errors import UserError


class ImageFinder:
    """The image files of a folder by their names; case and Unicode form don't matter.

    Args:
        root: folder of the export.
        files: of `list_files`, relative to `root`.
    """

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        self.root = root
        self.files = [f for f in files if PurePosixPath(f).suffix.lower() in IMAGE_SUFFIXES]
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._by_name[_key(file.rpartition("/")[2])].append(file)

    def find(self, given: str, folder: str = "", hints: Sequence[str] = ()) -> Path | None:
        r"""The file that an annotation calls `given`; None if there is none.

        The path may be absolute, of another machine, or Windows' (`..\images\a.jpg`); only files
        below the root are found. Among several files, the one with the most of the given folders
        wins, then one beside the annotation, then one in a folder that `hints` name.

        Args:
            given: name or path.
            folder: of the annotation, relative to the root, without a slash at the end.
            hints: names of folders, such as the split.

        Raises:
            UserError: several files fit equally well.
        """
        parts = [p for p in _key(given).replace("\\", "/").split("/") if p not in ("", ".", "..")]
        found = self._by_name.get(parts[-1], []) if parts else []
        if len(found) > 1:
            scores = [self._score(file, parts, folder, hints) for file in found]
            found = [file for file, score in zip(found, scores) if score == max(scores)]
        if len(found) > 1:
            raise UserError(
                f"the image {given!r} may be {found[0]} or {found[1]}.",
                path=self.root,
                remedy="Remove one of them, or name the folder in the annotation.",
                kind="ambiguous images",
            )
        return self.root / found[0] if found else None

    @staticmethod
    def _score(
        file: str, parts: Sequence[str], folder: str, hints: Sequence[str]
    ) -> tuple[int, bool, int]:
        own = _key(file).split("/")
        same = 0
        for a, b in zip(reversed(own), reversed(parts)):
            if a != b:
                break
            same += 1
        beside = file.rpartition("/")[0] == "/".join(filter(None, [folder, *parts[:-1]]))
        return same, beside, sum(_key(hint) in own[:-1] for hint in hints)


def name_of(file: str) -> str:
    """A relative path without its suffix."""
    return file.removesuffix(PurePosixPath(file).suffix)


def record_names(files: Sequence[str]) -> list[str]:
    """Names of records: the paths below the folder that contains all files, without suffix."""
    folders = [PurePosixPath(file).parent.parts for file in files]
    common = 0
    if folders:
        for parts in zip(*folders):
            if len({*parts}) > 1:
                break
            common += 1
    return [name_of("/".join(PurePosixPath(file).parts[common:])) for file in files]


def no_images_error(root: Path, title: str, first: str) -> UserError:
    """The error for an export that has annotations only."""
    return UserError(
        f"{title} without its images: found annotations of {first!r} and others, but no "
        f"{', '.join(IMAGE_SUFFIXES)} files.",
        path=root,
        remedy="Export again with the images, or put the images into this folder.",
    )


def _key(name: str) -> str:
    return nfc(name).casefold()
