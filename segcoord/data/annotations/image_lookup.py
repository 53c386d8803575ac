"""Find the images of an export by the paths or the names that its annotations give them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from segcoord.data.annotations.names import without_suffix
from segcoord.data.annotations.records import Record
from segcoord.data.file_pattern import IMAGE_SUFFIXES, list_files, nfc
from segcoord.utils.errors import UserError


class ImageFiles:
    """The image files below a folder by their paths, for tools that state the whole path.

    Paths are relative to the folder. Unicode forms and the case of suffixes may differ; folders
    and the rest of a name may not, so a path means one file at most. `ImageFinder` looks up names
    in any folder.

    Args:
        folder: need not exist; then there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_path: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        files = list_files(folder) if folder.is_dir() else []
        self.paths = [file for file in files if without_suffix(file) != file]
        for path in self.paths:
            self._by_path[nfc(path)] = path
        for path in self.paths:
            self._by_path.setdefault(_lower_suffix(path), path)
            self._by_stem.setdefault(nfc(without_suffix(path)), path)

    def find(self, path: str) -> Path | None:
        """The file of a path, whose suffix may be missing."""
        return self.find_stem(path) if without_suffix(path) == path else self.find_file(path)

    def find_file(self, path: str) -> Path | None:
        """The file of a path with its suffix."""
        key = nfc(PurePosixPath(path))
        return self._stored(self._by_path.get(key) or self._by_path.get(_lower_suffix(key)))

    def find_first(self, paths: Iterable[str], stems: Iterable[str] = ()) -> Path | None:
        """The first file that one of the paths means, or else one of the paths without suffix."""
        found = (*map(self.find_file, paths), *map(self.find_stem, stems))
        return next(filter(None, found), None)

    def find_stem(self, stem: str) -> Path | None:
        """The file of a path without its suffix."""
        return self._stored(self._by_stem.get(nfc(stem)))

    def _stored(self, path: str | None) -> Path | None:
        return None if path is None else self.folder / path


class ImageFinder:
    """The image files of a folder by their names, for tools whose paths are of another machine.

    Case and Unicode form don't matter. Nor does the folder, unless several files have the name, or
    the export has images in a folder that the annotation names. `ImageFiles` looks up whole paths.

    Args:
        root: folder of the export.
        files: of `list_files`, relative to `root`.

    Attributes:
        elsewhere: how many images were found in another folder than named, by an example.
    """

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        self.root = root
        self.files = [f for f in files if PurePosixPath(f).suffix.lower() in IMAGE_SUFFIXES]
        self.elsewhere: Counter[str] = Counter()
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._by_name[_key(file.rpartition("/")[2])].append(file)
        self._folders = {_key(file).rpartition("/")[0] for file in self.files}
        self._folder_names = {folder.rpartition("/")[2] for folder in self._folders}

    def find(self, given: str, folder: str = "", hints: Sequence[str] = ()) -> Path | None:
        r"""The file that an annotation calls `given`; None if there is none.

        The path may be absolute, of another machine, or Windows' (`..\images\a.jpg`); only files
        below the root are found. Among several files, the one with the most of the given folders
        wins, then one beside the annotation, then one in a folder that `hints` name. A file in
        another folder than the one named is another image, if that one has images.

        Args:
            given: name or path.
            folder: of the annotation, relative to the root, without a slash at the end.
            hints: names of folders, such as the split.

        Raises:
            UserError: several files fit equally well.
        """
        parts = _parts(given)
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
        if not found:
            return None
        if not self.is_named(found[0], given, folder):
            if len(parts) > 1:
                if parts[-2] in self._folder_names:
                    return None
                self.elsewhere["images found in another folder than their annotations name"] += 1
            elif _key(folder) in self._folders and not self._is_hinted(found[0], hints):
                return None
        return self.root / found[0]

    @staticmethod
    def is_named(file: str, given: str, folder: str) -> bool:
        """Whether a file is in the folder that `given` names, or else beside the annotation."""
        parts = _parts(given)
        if len(parts) == 1:
            return _key(file).rpartition("/")[0] == _key(folder)
        return common_end(_key(file).split("/"), parts) > 1

    @staticmethod
    def _is_hinted(file: str, hints: Sequence[str]) -> bool:
        return any(_key(hint) in _key(file).split("/")[:-1] for hint in hints)

    @staticmethod
    def _score(
        file: str, parts: Sequence[str], folder: str, hints: Sequence[str]
    ) -> tuple[int, bool, int]:
        own = _key(file).split("/")
        beside = file.rpartition("/")[0] == "/".join(filter(None, [folder, *parts[:-1]]))
        return common_end(own, parts), beside, sum(_key(hint) in own[:-1] for hint in hints)


def common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """How many of their last parts two paths share."""
    pairs = zip(reversed(first), reversed(second))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def no_images_error(root: Path, title: str, first: str) -> UserError:
    """The error for an export that has annotations only."""
    return UserError(
        f"{title} without its images: found annotations of {first!r} and others, but no "
        f"{', '.join(IMAGE_SUFFIXES)} files.",
        path=root,
        remedy="Export again with the images, or put the images into this folder.",
    )


def report_missing(
    missing: Sequence[str], records: Sequence[Record], folder: Path, skipped: Counter[str]
) -> None:
    """Count the images that an export names but doesn't hold.

    Args:
        missing: their names.
        records: those of the images that were found.
        folder: where they were looked up.
        skipped: gets the count, with the first name.

    Raises:
        UserError: no image was found.
    """
    if not records:
        found = f" of the {len(missing)} that it names, such as {missing[0]}" if missing else ""
        raise UserError(
            f"found no image{found}.",
            path=folder,
            remedy="Export the dataset with its images, or copy them there.",
        )
    if missing:
        skipped[f"images that are not there, such as {missing[0]}"] += len(missing)


def _parts(given: str) -> list[str]:
    """The folders and the name of a path of any system, without those that lead upwards."""
    return [p for p in _key(given).replace("\\", "/").split("/") if p not in ("", ".", "..")]


def _key(name: str) -> str:
    return nfc(name).casefold()


def _lower_suffix(name: str) -> str:
    stem, _, suffix = nfc(name).rpartition(".")
    return f"{stem}.{suffix.lower()}"
