"""Write an imported dataset: a folder in VOC's layout that appears complete or not at all."""

import fcntl
import json
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from segcoord.config.classes import ClassConfig, parse_classes
from segcoord.config.loading import read_yaml
from segcoord.data.annotations.convert import IMAGES, MASKS
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

CONFIG = "config.yaml"
LISTS = Path("ImageSets") / "Segmentation"
_LOCK, _FINGERPRINT, _JOURNAL = "lock", "fingerprint", "done.jsonl"
_HEAD = "# Written by segcoord data import from"
_WRITTEN = {IMAGES, MASKS, "ImageSets", CONFIG, ".segcoord"}
_LARGEST_CROP = 320  # pixels; trains in reasonable time on a CPU
_CONFIG = """\
model:
  decoder: deeplabv3plus
  encoder_weights: null  # imagenet scores better, and downloads weights (docs/weights.md)
data:
  layout: voc
  root: {root}
  crop_size: [{crop}, {crop}]  # larger ones take more memory and time
  scale: [0.75, 1.5]
  classes:  # the ids in the masks are the positions in this list, from 0
{classes}\
train:
  max_steps: 2000
  batch_size: 8
  optimizer: adamw
  momentum: null
  lr: 2.0e-3
  weight_decay: 1.0e-2
  val_interval: 200
"""


def check_out(source: Path, out: Path, replace: bool) -> list[ClassConfig]:
    """Check the folder to write; returns the classes of the dataset that it holds.

    Raises:
        UserError: it exists and is not to be replaced, holds other files, is a folder of the
            source or contains it.
    """
    inside, contains = out.is_relative_to(source), source.is_relative_to(out)
    if inside or contains:
        what = "is SOURCE, or a folder in it" if inside else "contains SOURCE"
        raise UserError(f"--out {out}: {what}; choose a folder beside {source}")
    for parent in out.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"--out {out}: {parent} is a file, expected a folder")
    if not out.exists():
        return []
    names = {p.name for p in out.iterdir()} if out.is_dir() else {"a file"}
    if not names:
        return []
    if foreign := sorted(names - _WRITTEN):
        raise UserError(
            f"--out {out}: contains {foreign[0]!r}, which no import wrote; nothing was changed. "
            "Choose another folder, or move that away."
        )
    if not replace:
        raise UserError(
            f"--out {out}: exists already. Choose another folder, or replace it with --replace; "
            "its classes then keep their ids."
        )
    if CONFIG not in names:
        raise UserError(
            f"--out {out}: holds {', '.join(sorted(names))} without {CONFIG}, so it is not the "
            "result of an import; nothing was changed. Choose another folder."
        )
    if not (out / CONFIG).read_text(encoding="utf-8", errors="replace").startswith(_HEAD):
        raise UserError(
            f"--out {out}: {CONFIG} doesn't begin with {_HEAD!r}, so no import wrote this "
            "dataset; nothing was changed. Choose another folder."
        )
    classes = parse_classes((read_yaml(out / CONFIG).get("data") or {}).get("classes"))
    if not isinstance(classes, list):
        raise UserError(
            f"{out / CONFIG}: found no list of classes (data.classes), whose ids the new dataset "
            "keeps. Write it there, or choose another folder with --out."
        )
    return classes


class PartialDataset:
    """The hidden folder beside a dataset in which it is written, and a journal of finished images.

    Args:
        out: the dataset.

    Attributes:
        folder: the hidden folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.parent / f".{out.name}.part"
        self._journal = self.folder / _JOURNAL
        self._published = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that no other process writes into it; remove it if nothing is kept.

        Raises:
            UserError: another process does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.folder}: another process is importing to {self.out}"
                ) from None
            try:
                yield
            finally:
                if not self._published and not any(self.finished()):
                    shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, fingerprint: str) -> bool:
        """Continue with what an interrupted import left, or empty the folder.

        Args:
            fingerprint: of the source and of the options that decide the result.

        Returns:
            Whether it held finished images of another fingerprint, which are removed.
        """
        file = self.folder / _FINGERPRINT
        same = file.is_file() and file.read_text() == fingerprint
        removed = not same and self._journal.exists()
        if not same:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            file.write_text(fingerprint)
        return removed

    def finished(self) -> Iterator[dict]:
        """Yield what the journal has of each image whose files are complete."""
        if not self._journal.exists():
            return
        with self._journal.open() as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:  # blank, or the line that was being written
                    continue
                files = [self.folder / file for file in entry["files"]]
                sizes = [f.stat().st_size if f.is_file() else -1 for f in files]
                if sizes == entry["bytes"]:
                    yield entry

    @contextmanager
    def journal(self) -> Iterator["Journal"]:
        """Open the journal to add finished images."""
        with self._journal.open("a") as file:
            file.write("\n")  # ends a line that was cut short
            yield Journal(self.folder, file)

    def publish(self) -> None:
        """Give the dataset its name; one that exists is replaced."""
        for name in (_FINGERPRINT, _JOURNAL, _LOCK):
            (self.folder / name).unlink(missing_ok=True)
        os.sync()
        old = self.out.parent / f".{self.out.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.out.exists():
            self.out.rename(old)
        self.folder.rename(self.out)
        self._published = True
        shutil.rmtree(old, ignore_errors=True)


class Journal:
    """Adds finished images to the journal of a partial dataset."""

    def __init__(self, folder: Path, file: object) -> None:
        self.folder, self.file = folder, file

    def add(self, name: str, image: str, **content: object) -> None:
        """Add a finished image."""
        files = [f"{IMAGES}/{image}", f"{MASKS}/{name}.png"]
        sizes = [(self.folder / file).stat().st_size for file in files]
        entry = {"name": name, "files": files, "bytes": sizes, **content}
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()


def write_lists(folder: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write ImageSets/Segmentation/SPLIT.txt."""
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    for old in (folder / LISTS).iterdir():
        old.unlink()
    for split, names in splits.items():
        (folder / LISTS / f"{split}.txt").write_text(
            "".join(f"{name}\n" for name in names), encoding="utf-8"
        )


def write_config(
    path: Path,
    out: Path,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    sizes: Sequence[tuple[int, int]],
    origin: str,
) -> None:
    """Write a configuration that trains on the dataset.

    Args:
        path: file to write.
        out: folder of the dataset.
        names: of the classes.
        colors: of the classes.
        sizes: (height, width) of some or all images.
        origin: where the dataset comes from.
    """
    shorter = statistics.median_low([min(size) for size in sizes])
    crop = max(64, min(_LARGEST_CROP, shorter // 32 * 32))
    classes = "".join(
        f"    - {{name: {json.dumps(name, ensure_ascii=False)}, color: {list(color)}}}\n"
        for name, color in zip(names, colors)
    )
    head = (
        f"{_HEAD} {json.dumps(origin, ensure_ascii=False)}.\n"
        f"# Train: segcoord train --config {out / CONFIG}\n"
    )
    root = json.dumps(str(out), ensure_ascii=False)
    text = head + _CONFIG.format(root=root, crop=crop, classes=classes)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
