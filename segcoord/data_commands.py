"""What `segcoord data check`, `ids` and `weights` do, once their arguments are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from segcoord.config import DataConfig
from segcoord.console import console, counting_bar
from segcoord.data.across import compare, labels_missing
from segcoord.data.balance import FORMULAS, class_weights
from segcoord.data.findings import Finding, errors
from segcoord.data.layouts import Split, find_split, label_set, stray_masks
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
    return split, findings


def _counted(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


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
    console.print(f"\nsplit {split.name}; train.class_weights: NAME trains with one of them.")
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
