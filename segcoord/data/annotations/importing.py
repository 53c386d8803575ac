"""`segcoord data import`: an export of an annotation tool becomes a dataset that trains."""

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from segcoord.data.annotations.classes import ClassMap, map_classes
from segcoord.data.annotations.convert import Job, convert
from segcoord.data.annotations.dataset import (
    CONFIG,
    PartialDataset,
    check_out,
    write_config,
    write_lists,
)
from segcoord.data.annotations.rasterize import OVERLAPS
from segcoord.data.annotations.records import Export, Record
from segcoord.data.annotations.report import Statistics, print_findings, print_report
from segcoord.data.annotations.source import opened_source, recognize
from segcoord.data.annotations.splits import check_group, make_splits, parse_fractions
from segcoord.data.file_pattern import list_files, nfc
from segcoord.data.labels import VOID_COLOR
from segcoord.data.process_map import process_map
from segcoord.utils.console import console, progress_counter
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError

_VERSION = 1  # of the masks; increase it if the same source gives others
_PER_WORKER = 48  # images for which a process is worth its start
UNANNOTATED = "images without annotation: left out (--unannotated keep takes them as background)"
KEPT = "images without annotation: all background"
BAD = "images that can't be used: left out (--skip-bad)"


@dataclass(frozen=True)
class ImportOptions:
    """The options of `segcoord data import`."""

    source: Path
    out: Path
    format: str | None = None
    classes: list[str] | None = None
    split: str | None = None
    group: str | None = None
    overlap: str | None = None
    unlabelled: str = "background"
    unannotated: str = "skip"
    workers: int | None = None
    replace: bool = False
    skip_bad: bool = False
    link: bool = False

    def check(self) -> None:
        """Raises UserError for a value that no option takes."""
        allowed = {
            "overlap": (self.overlap, (None, *OVERLAPS)),
            "unlabelled": (self.unlabelled, ("void", "background")),
            "unannotated": (self.unannotated, ("keep", "skip")),
        }
        for name, (value, values) in allowed.items():
            if value not in values:
                expected = " or ".join(filter(None, values))
                raise UserError(f"--{name}: found {value!r}, expected {expected}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers: found {self.workers}, expected 1 or more")
        if self.unannotated == "keep" and self.unlabelled == "void":
            raise UserError(
                "--unannotated keep: with --unlabelled void, images without annotation have only "
                "void pixels, from which nothing is learned; expected --unlabelled background"
            )
        if self.group is not None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise UserError(
                    f"--group: found {self.group!r}, expected a regular expression ({error})"
                ) from None


def import_dataset(options: ImportOptions) -> int:
    """Convert an export to a dataset; prints what it holds and the next command.

    With more than one worker a script must call this under `if __name__ == "__main__"`.

    Returns:
        The exit code: 1 if images can't be used and --skip-bad is not given.

    Raises:
        UserError: an option, the export or the folder to write can't be used.
    """
    options.check()
    fractions = parse_fractions(options.split) if options.split else None
    source, out = options.source.expanduser().resolve(), options.out.expanduser().resolve()
    previous = check_out(source, out, options.replace)
    dataset = PartialDataset(out)
    try:
        with (
            dataset.locked(),
            opened_source(source, out.parent / f".{out.name}.unpacked") as root,
        ):
            folder, chosen, seen = recognize(root, options.format)
            console.print(f"{options.source}: {chosen.title}: {seen}")
            export = chosen.read(folder)
            if not export.classes:
                raise _no_shapes_error(options.source, export)
            classes = map_classes(
                export.classes, options.classes, options.unlabelled, export.background, previous
            )
            return _write(options, dataset, source, folder, export, classes, fractions)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: could not be read or written ({error.strerror or error}). "
            "Free space or fix the permissions, and run the command again: finished images are "
            "kept."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"{out}: a process was killed, perhaps out of memory. Run the command again: finished "
            "images are kept, and --workers 1 takes the least memory."
        ) from error


def _write(
    options: ImportOptions,
    dataset: PartialDataset,
    source: Path,
    folder: Path,
    export: Export,
    classes: ClassMap,
    fractions: Sequence[float] | None,
) -> int:
    skipped = Counter(export.skipped)
    records, errors = _usable(export.records, options.unannotated, skipped)
    total = len(records) + len(errors)
    check_group([record.split for record in records], fractions, options.group)
    job = Job(
        annotation=export.annotation,
        image=export.image,
        rewrites_images=export.rewrites_images,
        folder=dataset.folder,
        indices=classes.indices,
        unlabelled=classes.unlabelled,
        overlap=options.overlap,
        palette=_palette(classes),
        link=options.link,
    )
    statistics = Statistics(len(records), len(classes.names), classes.unlabelled)
    if dataset.start(_fingerprint(options, source, folder, records, classes)):
        console.print("the source or the options changed: starting from the beginning")
    errors += _convert(dataset, job, records, statistics, options.workers)
    if errors:
        print_findings(errors)
        if not options.skip_bad:
            console.print(
                f"\n{len(errors)} of {total} images can't be imported; "
                f"nothing was written to {dataset.out}. Correct them, or leave them out with "
                "--skip-bad, which continues from here."
            )
            return 1
        skipped[BAD] += len(errors)
    used = np.flatnonzero(statistics.done)
    if not len(used):
        raise _nothing_error(export, skipped)
    names, given = [records[i].name for i in used], [records[i].split for i in used]
    presence, digests = statistics.presence[used], statistics.digests[used]
    splits, how = make_splits(names, given, presence, digests, fractions, options.group)
    write_lists(dataset.folder, splits)
    sizes = statistics.sizes[used].tolist()
    origin = f"{export.format}: {source}"
    write_config(dataset.folder / CONFIG, dataset.out, classes.names, classes.colors, sizes, origin)
    dataset.publish()
    print_report(dataset.out, classes, statistics, splits, how, skipped)
    config = shlex.quote(str(options.out / CONFIG))
    console.print(f"\nTrain: segcoord train --config {config}")
    return 0


def _usable(
    records: Sequence[Record], unannotated: str, skipped: Counter[str]
) -> tuple[list[Record], list[UserError]]:
    """The records to convert, and errors about those that can't be, such as the same name twice."""
    usable: list[Record] = []
    errors: list[UserError] = []
    names: dict[str, Record] = {}
    images: dict[Path, Record] = {}
    ambiguous: set[int] = set()  # none of them is known to be right
    for record in records:
        if record.content is None:
            skipped[KEPT if unannotated == "keep" else UNANNOTATED] += 1
            if unannotated == "skip":
                continue
        error = _name_error(record)
        first = names.setdefault(nfc(record.name), record)
        annotated = images.setdefault(record.image, record)
        if first is not record:
            error = UserError(
                f"has the name {record.name!r}, as has {first.image}.",
                path=record.image,
                remedy="Rename one of the two images in the export.",
                kind="images with the same name",
            )
            ambiguous.add(id(first))
        if annotated is not record:
            error = UserError(
                f"is annotated twice, in {annotated.where} and {record.where}.",
                path=record.image,
                remedy="Remove one of the two annotations.",
                kind="images with two annotations",
            )
            ambiguous.add(id(annotated))
        if error is None:
            usable.append(record)
        else:
            errors.append(error)
    return [record for record in usable if id(record) not in ambiguous], errors


def _name_error(record: Record) -> UserError | None:
    name = record.name
    parts = name.split("/")
    wrong = any(p in ("", ".", "..") or p != p.strip() or p.startswith(".") for p in parts)
    if not wrong and not re.search(r"[\\\x00-\x1f\ud800-\udfff]", name):
        return None
    return UserError(
        f"the image name {name!r} would leave the dataset, be hidden, or can't be listed.",
        path=record.where,
        remedy="Rename the image without .., \\, control characters and spaces at the ends.",
        kind="image names that can't be used",
    )


def _convert(
    dataset: PartialDataset,
    job: Job,
    records: Sequence[Record],
    statistics: Statistics,
    workers: int | None,
) -> list[UserError]:
    """Convert the images that the journal doesn't have; returns errors about single images."""
    positions = {record.name: i for i, record in enumerate(records)}
    for entry in dataset.finished():
        if entry["name"] in positions:
            pixels = {int(value): n for value, n in entry["pixels"].items()}
            content = (entry["size"], pixels, entry["counts"], entry["digest"])
            statistics.add(positions[entry["name"]], *content)
    finished = int(statistics.done.sum())
    if finished:
        console.print(f"continuing: {finished} of {len(records)} images were done before")
    todo = [record for i, record in enumerate(records) if not statistics.done[i]]
    if workers is None:
        workers = min(available_cores(), len(todo) // _PER_WORKER)
    errors: list[UserError] = []
    with (
        dataset.journal() as journal,
        progress_counter("import", len(records)) as update,
        closing(process_map(partial(convert, job), todo, workers)) as results,
    ):
        update(finished)
        for n, result in enumerate(results, finished + 1):
            if isinstance(result, UserError):
                errors.append(result)
            else:
                keys = ("size", "pixels", "counts", "digest")
                content = {key: getattr(result, key) for key in keys}
                statistics.add(positions[result.name], *content.values())
                journal.add(result.name, result.image, **content)
            update(n)
    return errors


def _no_shapes_error(source: Path, export: Export) -> UserError:
    reasons = _reasons(export.skipped)
    return UserError(
        f"{export.format} without an annotated shape; nothing was written.",
        path=source,
        remedy=f"Left out: {reasons}." if reasons else "Annotate images, and export them again.",
    )


def _fingerprint(
    options: ImportOptions,
    source: Path,
    folder: Path,
    records: Sequence[Record],
    classes: ClassMap,
) -> str:
    """SHA-256 of all files of the source by name, size and time, and of what decides the masks."""
    ignored = {"out", "workers", "replace", "skip_bad", "split", "group", "source"}
    settings = {key: value for key, value in asdict(options).items() if key not in ignored}
    settings |= {"version": _VERSION, "source": str(source), "classes": asdict(classes)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    files = [source]
    if source.is_dir():
        files = [folder / file for file in list_files(folder)]
        files += [r.image for r in records if not r.image.is_relative_to(folder)]
    for file in files:
        try:
            state = file.stat()
        except OSError:
            continue
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def _palette(classes: ClassMap) -> bytes:
    """256 RGB colors: those of the classes, then void's."""
    table = np.full((256, 3), VOID_COLOR, np.uint8)
    table[: len(classes.colors)] = classes.colors
    return table.tobytes()


def _nothing_error(export: Export, skipped: Counter[str]) -> UserError:
    reasons = _reasons(skipped) or "no images"
    return UserError(f"{export.format}: found no image with a usable annotation. {reasons}")


def _reasons(skipped: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {n}" for reason, n in skipped.items() if n)
