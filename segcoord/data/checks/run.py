"""Run the checks: all of them for `segcoord data check`, the fast ones before training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segcoord.config.schema import DataConfig
from segcoord.data.checks.cross_split import cross_split_findings
from segcoord.data.checks.findings import MAX_LISTED, Finding, group_findings, only_errors
from segcoord.data.checks.report import print_findings, print_split_tables, write_report
from segcoord.data.checks.split import (
    SplitCheck,
    absent_classes,
    check_split,
    duplicate_images,
    equal_colors,
    inspect_split,
    missing_labels,
    only_class,
)
from segcoord.data.checks.usable_lists import UsableLists
from segcoord.data.file_pattern import IMAGE_SUFFIXES
from segcoord.data.layouts import find_split, masks_without_image, skipped_files
from segcoord.data.split import Split
from segcoord.utils.console import console, progress_counter
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines


def check_for_training(splits: Sequence[Split], data: DataConfig) -> list[SplitCheck]:
    """Run and print the checks that decode masks but no images.

    Raises:
        UserError: training would fail or be wrong; lists the first errors of one kind.
    """
    checks = [check_split_with_progress(split) for split in splits]
    findings = _whole_split_findings(splits, checks, data)
    if errors := group_findings(only_errors(findings)):
        raise UserError(first_lines(errors[0], MAX_LISTED))
    print_split_tables(splits, checks)
    print_findings([f for c in checks for f in c.findings] + findings)
    return checks


def check_split_with_progress(split: Split) -> SplitCheck:
    """Run `check_split` with a progress bar."""
    with progress_counter(f"check {split.name}", len(split)) as on_progress:
        return check_split(split, on_progress)


def check_data(
    data: DataConfig,
    name: str | None,
    json: str | None = None,
    lists: UsableLists | None = None,
) -> int:
    """Run all checks on one split, or on those for training and validation, and print the findings.

    Args:
        data: the dataset; data.skip_bad is ignored, so that all mistakes are found.
        name: of the split; None for the training and the validation split.
        json: file to write the findings to.
        lists: writes lists of the usable samples.

    Returns:
        The exit code: 1 if training would fail or be wrong, otherwise 0.
    """
    data.check()
    skipped = data.skip_bad
    data = replace(data, skip_bad=False)
    names = [name] if name else list(dict.fromkeys((data.train_split, data.val_split)))
    if lists:
        lists.check(names)
    splits: list[Split] = []
    checks: list[SplitCheck] = []
    findings: list[Finding] = []
    for each in names:
        split, list_findings = _list_split(data, each)
        findings += list_findings
        splits += [split] if split else []
    if lists:
        lists.check_apart(data, splits)
    for split in splits:
        with progress_counter(f"check {split.name}", len(split)) as on_progress:
            checks.append(inspect_split(split, on_progress, decode_images=True))
    findings += [finding for check in checks for finding in check.findings]
    findings += _whole_split_findings(splits, checks, data, need_labels=name is None)
    # Splits that share a folder share its findings.
    findings = list({(f.kind, f.path, f.found): f for f in reversed(findings)}.values())[::-1]
    if splits:
        print_split_tables(splits, checks)
    print_findings(findings)
    if json:
        write_report(Path(json), data, splits, checks, findings)
        console.print(f"\njson       {json}")
    if lists:
        lists.write(data, splits, checks)
    errors = len(only_errors(findings))
    warnings = _pluralize(len(findings) - errors, "warning")
    if errors:
        result = "training would fail or be wrong"
        if skipped:
            result += " without data.skip_bad, which leaves out samples with errors"
        console.print(f"\n{_pluralize(errors, 'error')}, {warnings}: {result}.")
        return 1
    console.print(f"\nNo errors, {warnings}.")
    return 0


def _whole_split_findings(
    splits: Sequence[Split],
    checks: Sequence[SplitCheck],
    data: DataConfig,
    need_labels: bool = True,
) -> list[Finding]:
    """Findings about whole splits, and about the training and the validation split together.

    Args:
        splits: both, or only one if they are the same or one can't be listed.
        checks: of each split; duplicate images are found if they have digests.
        data: the dataset.
        need_labels: False for a split that is only predicted.
    """
    findings = equal_colors(splits[0].labels) if splits else []
    for split, check in zip(splits, checks):
        missing = missing_labels(split, check, data)
        findings += missing if need_labels else []
        findings += only_class(split, check) if need_labels and split is splits[0] else []
        findings += [] if missing else absent_classes(split, check)
        findings += duplicate_images(split, check)
    if len(splits) == 2:
        findings += cross_split_findings(*splits, *(check.digests for check in checks))
    return findings


def _list_split(data: DataConfig, name: str) -> tuple[Split | None, list[Finding]]:
    """List the usable part of a split, None if there is none, and the findings about its files."""
    errors: list[UserError] = []
    split = None
    try:
        split = find_split(data, name, errors.append)
    except UserError as error:
        errors.append(error)
    findings = [Finding.from_error(error, name) for error in errors]
    for path in masks_without_image(data, split) if split else []:
        kind, found = "masks without an image", "no image has this mask's name."
        remedy = "Look for a misspelled name or a missing image."
        findings.append(Finding("warning", kind, name, found, remedy, str(path)))
    for path in skipped_files(data, split) if split else []:
        found = f"unsupported format ({path.suffix or 'without suffix'})."
        remedy = f"Convert images to PNG; supported are {', '.join(IMAGE_SUFFIXES)}."
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found = f"its name doesn't match data.images {data.images!r}."
            remedy = "Rename it, or move it to another folder if it is not part of the dataset."
        findings.append(Finding("warning", "ignored files", name, found, remedy, str(path)))
    return split, findings


def _pluralize(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"
