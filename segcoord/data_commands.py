"""What `segcoord data check`, `pack`, `ids` and `weights` do, once their arguments are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from segcoord.config import DataConfig
from segcoord.console import console, counted, counting_bar
from segcoord.data.across import compare, labels_missing
from segcoord.data.balance import FORMULAS, class_weights
from segcoord.data.findings import Finding, errors
from segcoord.data.layouts import (
    IMAGE_SUFFIXES,
    Split,
    find_split,
    label_set,
    stray_masks,
    unread_files,
)
from segcoord.data.pack import REMEDY, open_pack, packs_folder, verify
from segcoord.data.packing import refuse_to_replace, write_pack
from segcoord.data.report import check, inspect, show_data, show_findings, write_report
from segcoord.errors import UserError
from segcoord.palette import ColorTable, convert_masks, find_masks, parse_color


def check_data(data: DataConfig, name: str | None, json: str | None = None) -> int:
    """Checks one split, or those for training and validation, and shows all that was found.

    Args:
        data: checked here.
        name: of the split; None for the two.
        json: file to write it to.

    Returns:
        1 if training would stop or be wrong, otherwise 0.
    """
    data.check()
    names = [name] if name else dict.fromkeys((data.train_split, data.val_split))
    splits: list[Split] = []
    findings: list[Finding] = []
    for each in names:
        split, told = _list(data, each)
        findings += told
        splits += [split] if split else []
    checks = [inspect(split) for split in splits]
    findings += [finding for check in checks for finding in check.findings]
    findings += compare(splits, checks, data.root, need_labels=name is None)
    # Splits may share a folder, and then what is wrong with it.
    findings = list({(f.kind, f.path, f.found): f for f in reversed(findings)}.values())[::-1]
    if splits:
        show_data(splits, checks)
    show_findings(findings)
    if json:
        write_report(Path(json), data, splits, checks, findings)
        console.print(f"\njson       {json}")
    wrong = len(errors(findings))
    warned = _counted(len(findings) - wrong, "warning")
    if wrong:
        told = f"\n{_counted(wrong, 'error')}, {warned}: training would stop or be wrong."
        console.print(told)
        return 1
    console.print(f"\nNo mistake found, {warned}.")
    return 0


def _list(data: DataConfig, name: str) -> tuple[Split | None, list[Finding]]:
    """The usable part of a split, None where there is none, and what its listing found."""
    told: list[UserError] = []
    split = None
    try:
        split = find_split(data, name, told.append)
    except UserError as error:
        told.append(error)
    findings = [Finding.of(error, name) for error in told]
    for path in stray_masks(data, split) if split else []:
        remedy = "Look for a misspelt name, or for the image that is missing."
        found = "no image has this mask's name."
        findings.append(
            Finding("warning", "masks without an image", name, found, remedy, str(path))
        )
    for path in unread_files(data, split) if split else []:
        found = f"{path.suffix or 'no suffix'}: of no kind that is read."
        remedy = f"Convert images to PNG; read are {', '.join(IMAGE_SUFFIXES)}."
        findings.append(
            Finding("warning", "files that are passed over", name, found, remedy, str(path))
        )
    return split, findings


def _counted(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


def pack_data(
    data: DataConfig, name: str | None, out: str | None, workers: int | None, check_only: bool
) -> None:
    """Writes or verifies the packs of one split, or of the training and the validation split.

    Args:
        data: checked here.
        name: of the split; None for the two.
        out: folder of the packs; None for the one in the dataset.
        workers: processes that decode; None for one on each core.
        check_only: write nothing, read every byte instead.
    """
    data.check()
    packs = Path(out).expanduser() if out else packs_folder(data)
    names = [name] if name else list(dict.fromkeys((data.train_split, data.val_split)))
    for each in names:
        refuse_to_replace(packs / each)
    for each in names:
        split, folder = find_split(data, each), packs / each
        if check_only:
            if not folder.exists():
                raise UserError(f"{folder}: there is no pack to verify; data pack writes one")
            pack = open_pack(folder, split)
            with counted(f"verify {each}", len(split)) as tell:
                verify(pack, split, tell)
            console.print(f"{folder}: every byte of {len(split)} images is as it was written")
        elif not _up_to_date(folder, split):
            with counted(f"pack {each}", len(split)) as tell:
                write_pack(split, folder, workers, tell)
            size = sum(p.stat().st_size for p in folder.iterdir())
            console.print(f"{folder}: {len(split)} images, {size / 1e6:.1f} MB")
    if packs != packs_folder(data) and not check_only:
        console.print(f"To read it: --data.pack {out}")


def _up_to_date(folder: Path, split: Split) -> bool:
    """Whether there is nothing to pack; says so, or why what is there doesn't do."""
    if not folder.exists():
        return False
    try:
        open_pack(folder, split)
    except UserError as error:
        console.print(f"{str(error).removesuffix(REMEDY)}It is written anew.")
        return False
    console.print(f"{folder}: is up to date")
    return True


def show_weights(data: DataConfig) -> None:
    """Prints the class weights of the training split by every formula."""
    data.check()
    split = find_split(data, data.train_split)
    found = check(split)
    for finding in labels_missing(split, found, data.root):
        raise UserError(str(finding))
    columns = [class_weights(found, formula) for formula in FORMULAS]
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for head in ("pixels %", "images", *FORMULAS):
        table.add_column(head, justify="right")
    share = 100 * found.pixels / found.pixels.sum()
    for name, part, images, *weights in zip(split.labels.names, share, found.images, *columns):
        table.add_row(name, f"{part:.2f}", str(images), *(f"{w:.4f}" for w in weights))
    console.print(table)
    console.print(
        f"\nsplit {split.name}; train.class_weights: NAME trains with one of them, "
        "a list of numbers with those."
    )
    absent = [n for n, images in zip(split.labels.names, found.images) if not images]
    if absent:
        console.print(f"never in its masks, so weight 0: {', '.join(absent)}", style="yellow")


def make_ids(data: DataConfig, masks: Path, out: Path, void: Sequence[str]) -> None:
    """Converts the masks of a folder from colours to ids.

    Args:
        data: whose classes and colours count.
        masks: the folder of masks in colours.
        out: the folder to write to.
        void: colours "R,G,B" that count for nothing.
    """
    data.check()
    table = ColorTable(label_set(data), [parse_color(text) for text in void])
    files = find_masks(masks, out)
    with counting_bar() as bar:
        task = bar.add_task("convert", total=len(files))
        written, there = convert_masks(files, out, table, lambda: bar.advance(task))
    console.print(f"{written} masks of ids written to {out}, {there} were there already")
