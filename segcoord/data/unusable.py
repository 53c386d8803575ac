"""Leave out the samples whose image or mask can't be used (data.skip_bad).

They are found by decoding everything, as `segcoord data check` does, and remembered in the
dataset's folder until a file or a setting changes.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from segcoord.config.schema import DataConfig
from segcoord.data.inspection import inspect_sample
from segcoord.data.labels import READING_RULES
from segcoord.data.pack.reader import source_of
from segcoord.data.split import SampleList, Split, dataset_root
from segcoord.utils.console import console, progress_counter
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json
from segcoord.utils.provenance import package_version

_IRRELEVANT = ("root", "workers", "pack", "crop_size", "scale", "flip", "color_jitter")
_IRRELEVANT += ("rare_class_sampling", "augmentation", "train_split", "val_split")


def leave_out_unusable(split: Split, data: DataConfig, unlisted: int = 0) -> Split:
    """The split without unusable samples.

    Args:
        split: all its samples.
        data: the dataset.
        unlisted: samples that were left out already, such as images without a mask; counted too.

    Raises:
        UserError: no sample can be used; lists the first ones.
    """
    file = dataset_root(data.root) / ".segcoord" / f"unusable-{split.name}.json"
    digest = _digest(split, data)
    unusable = _read(file, digest)
    if unusable is None:
        unusable = _find(split)
        try:
            write_json(file, {"digest": digest, "unusable": unusable})
        except UserError as error:  # a read-only dataset is checked at each start
            console.print(f"The result of data.skip_bad can't be kept: {error}", style="yellow")
    if not unlisted + len(unusable):
        return split
    bad = {*unusable}
    good = [sample for index, sample in enumerate(split.samples) if index not in bad]
    return replace(split, samples=SampleList(good), left_out=unlisted + len(unusable))


def _find(split: Split) -> list[int]:
    """The indices of the samples with an error."""
    inspect = partial(inspect_sample, split, decode_image=True)
    unusable, errors = [], []
    with (
        progress_counter(f"data.skip_bad: check {split.name}", len(split)) as on_progress,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for index, check in enumerate(pool.map(inspect, range(len(split)))):
            on_progress(index + 1)
            if check.errors:
                unusable.append(index)
                errors += check.errors
    if len(unusable) == len(split):
        raise UserError(
            f"split {split.name!r}: none of its {len(split)} samples can be used (data.skip_bad); "
            f"the first error: {errors[0]}"
        )
    return unusable


def _digest(split: Split, data: DataConfig) -> str:
    """Changes with the files, their sizes and times, the settings that matter and the version."""
    settings = {k: v for k, v in asdict(data).items() if k not in _IRRELEVANT}
    digest = hashlib.sha256(
        json.dumps([package_version("segcoord"), READING_RULES, settings]).encode()
    )
    for sample in split.samples:
        try:
            digest.update(json.dumps(source_of(sample)).encode())
        except UserError as error:  # a link to nothing
            digest.update(str(error).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(file: Path, digest: str) -> list[int] | None:
    """The indices that were found before; None if there are none or something has changed."""
    try:
        content = json.loads(file.read_text())
        return content["unusable"] if content["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
