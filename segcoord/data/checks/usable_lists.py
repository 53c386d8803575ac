"""List the usable samples of a dataset, with masks resized to their images on request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcoord.config.schema import DataConfig
from segcoord.data.checks.split import SplitCheck
from segcoord.data.file_pattern import stored_path
from segcoord.data.image_io import same_ratio
from segcoord.data.inspection import inspect_image
from segcoord.data.layouts import in_dataset
from segcoord.data.mask_reader import count_mask, read_mask, read_stored_mask
from segcoord.data.mask_writer import resize_nearest, write_stored_mask
from segcoord.data.split import Sample, Split
from segcoord.data.split_lists import list_line
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write, require_writable_path


@dataclass(frozen=True)
class UsableLists:
    """Writes `folder`/SPLIT.txt with a line for each usable sample, for data.lists.

    Args:
        folder: of the lists.
        root: data.root; the paths in the lists are relative to it.
        resized: folder in `root` for resized masks; None to leave their samples out.
    """

    folder: Path
    root: Path
    resized: Path | None = None

    def check(self, names: Sequence[str]) -> None:
        """Raise UserError for outputs that exist or can't be written, and for joined splits."""
        require_writable_path(self.folder, folder=True)
        if joined := next((name for name in names if "+" in name), None):
            raise UserError(
                f"--write-lists: split {joined!r} has no list of its own; write the list of each "
                f"of its parts, for example with --split {joined.split('+')[0]}"
            )
        files = [self.folder / f"{name}.txt" for name in names]
        if existing := next((file for file in files if file.exists()), None):
            raise UserError(f"--write-lists: {existing} exists already; choose another folder")
        if self.resized is None:
            return
        require_writable_path(self.resized, folder=True)
        if not self.resized.resolve().is_relative_to(self.root.resolve()):
            raise UserError(
                f"--resize-masks {self.resized}: is not in data.root {self.root}, so the lists "
                "can't refer to it; choose a folder in data.root"
            )
        if self.resized.exists() and any(self.resized.iterdir()):
            raise UserError(f"--resize-masks {self.resized}: is not empty; choose a new folder")

    def check_apart(self, data: DataConfig, splits: Sequence[Split]) -> None:
        """Raise UserError if resized masks would be found among the files of the dataset."""
        if self.resized is None:
            return
        for split in splits:
            if in_dataset(data, split, self.resized / split.name):
                raise UserError(
                    f"--resize-masks {self.resized}: data.images or data.masks would find its "
                    f"files; choose a hidden folder such as {self.root / '.resized'}"
                )

    def write(
        self, data: DataConfig, splits: Sequence[Split], checks: Sequence[SplitCheck]
    ) -> None:
        """Write the lists and the resized masks, and print how to use them."""
        for split, check in zip(splits, checks):
            lines, resized = [], 0
            for sample, usable in zip(split.samples, check.usable):
                mask = sample.mask
                if not usable:
                    mask = self._resize(sample, split)
                    resized += mask is not None
                if usable or mask is not None:
                    lines.append(list_line(sample.image, mask, self.root))
            file = self.folder / f"{split.name}.txt"
            with atomic_write(file) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            made = f", {resized} with a resized mask" if resized else ""
            console.print(f"\n{file}: {len(lines)} of {len(split)} samples{made}")
        folder = self.folder.resolve()
        if folder.is_relative_to(self.root.resolve()):
            folder = folder.relative_to(self.root.resolve())
        fraction = "" if data.val_fraction is None else "--data.val_fraction null "
        console.print(f'To use the lists: {fraction}--data.lists "{folder}/{{split}}.txt"')

    def _resize(self, sample: Sample, split: Split) -> Path | None:
        """A mask of its image's size by nearest neighbor; None if it can't be made usable."""
        if self.resized is None or sample.mask is None:
            return None
        target = self.resized.resolve() / split.name / f"{sample.stem}.png"
        try:
            image = inspect_image(sample.image, decode=True, exif=split.exif)
            mask = read_stored_mask(sample.mask)
            size, found = image.size, mask.pixels.shape[:2]
            if image.errors or found == size or not same_ratio(found, size):
                return None
            expected = resize_nearest(read_mask(sample.mask, sample.labels), size)
            write_stored_mask(target, mask._replace(pixels=resize_nearest(mask.pixels, size)))
            # Fewer colors are left, and the colors in use decide how some masks are read.
            count_mask(target, sample.labels, size)
            if np.array_equal(read_mask(target, sample.labels), expected):
                return target
        except UserError:  # the check has reported it
            pass
        target.unlink(missing_ok=True)
        return None


def usable_lists(folder: str | None, resized: str | None, root: str) -> UsableLists | None:
    """The lists that the options ask for; UserError for `--resize-masks` alone."""
    if folder is None:
        if resized is not None:
            raise UserError("--resize-masks: needs --write-lists DIR, whose lists name the masks")
        return None
    path = stored_path(Path(root).expanduser())
    return UsableLists(Path(folder), path, None if resized is None else Path(resized))
