"""TODO."""

from __future__ import annotations

from pathlib import Path

from segcoord.config.schema import DataConfig
from segcoord.data.checks.cross_split import check_across_splits
from segcoord.data.checks.findings import Finding, only_errors
from segcoord.data.checks.report import (
    inspect_split_with_progress,
    print_findings,
    print_split_tables,
    write_report,
)
from segcoord.data.layouts import IMAGE_SUFFIXES, find_split, masks_without_image, skipped_files
from segcoord.data.split import Split
from segcoord.utils.console import console
from segcoord.utils.errors import UserError


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
        split, told = _list_split(data, each)
        findings += told
        splits += [split] if split else []
    checks = [inspect_split_with_progress(split) for split in splits]
    findings += [finding for check in checks for finding in check.findings]
    findings += check_across_splits(splits, checks, data.root, need_labels=name is None)
    # Splits may share a folder, and then what is wrong with it.
    findings = list({(f.kind, f.path, f.found): f for f in reversed(findings)}.values())[::-1]
    if splits:
        print_split_tables(splits, checks)
    print_findings(findings)
    if json:
        write_report(Path(json), data, splits, checks, findings)
        console.print(f"\njson       {json}")
    wrong = len(only_errors(findings))
    warned = _pluralize(len(findings) - wrong, "warning")
    if wrong:
        told = f"\n{_pluralize(wrong, 'error')}, {warned}: training would stop or be wrong."
        console.print(told)
        return 1
    console.print(f"\nNo mistake found, {warned}.")
    return 0


def _list_split(data: DataConfig, name: str) -> tuple[Split | None, list[Finding]]:
    """The usable part of a split, None where there is none, and what its listing found."""
    told: list[UserError] = []
    split = None
    try:
        split = find_split(data, name, told.append)
    except UserError as error:
        told.append(error)
    findings = [Finding.of(error, name) for error in told]
    for path in masks_without_image(data, split) if split else []:
        remedy = "Look for a misspelt name, or for the image that is missing."
        found = "no image has this mask's name."
        findings.append(
            Finding("warning", "masks without an image", name, found, remedy, str(path))
        )
    for path in skipped_files(data, split) if split else []:
        found = f"{path.suffix or 'no suffix'}: of no kind that is read."
        remedy = f"Convert images to PNG; read are {', '.join(IMAGE_SUFFIXES)}."
        findings.append(
            Finding("warning", "files that are passed over", name, found, remedy, str(path))
        )
    return split, findings


def _pluralize(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"
