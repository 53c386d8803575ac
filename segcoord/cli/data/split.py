"""segcoord data split."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse
from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from segcoord.config.schema import DataConfig
    from segcoord.data.split import Split

_NAMES = ("train", "val", "test")


def split(program: str, argv: list[str]) -> int:
    """Divide a dataset into training, validation and test lists, stratified by class"""
    parser = new_parser(program, split)
    _add_options(parser)
    args = parse(parser, argv)
    from segcoord.data.checks.near_neighbors import near_neighbor_findings
    from segcoord.data.checks.report import print_findings
    from segcoord.data.checks.split import check_split, duplicate_images, missing_labels
    from segcoord.data.grouped_split import group_names, split_names
    from segcoord.data.layouts import find_all, find_split
    from segcoord.data.split import SampleList, Split, dataset_root
    from segcoord.data.split_lists import list_line
    from segcoord.utils.console import progress_counter

    fractions = _parse_fractions(args.fractions)
    names = _parse_names(args.names, len(fractions))
    files = [Path(args.out).expanduser() / f"{name}.txt" for name in names]
    _check_outputs(files, args.replace)
    data = parser.instantiate(args).data
    data.check()
    whole = find_split(data, args.split) if args.split else find_all(data)
    stems = [sample.stem for sample in whole.samples]
    # These raise their errors before the long part.
    group_names(stems, len(fractions), args.group)
    root = dataset_root(data.root)
    lines = [f"{list_line(sample.image, sample.mask, root)}\n" for sample in whole.samples]
    with progress_counter("read", len(whole)) as on_progress:
        check = check_split(whole, on_progress, decode_images=True)
    for finding in missing_labels(whole, check, data):
        raise UserError(str(finding))
    groups = group_names(stems, len(fractions), args.group, check.digests)
    part_of = split_names(stems, check.present, fractions, args.seed, args.group, check.digests)

    members = [[i for i, each in enumerate(part_of) if each == part] for part in range(len(names))]
    parts = [
        Split(name, SampleList(whole.samples[i] for i in indices), whole.labels, exif=whole.exif)
        for name, indices in zip(names, members)
    ]
    _print_table(parts, members, groups, check.present)
    hashes = [[check.difference_hashes[i] for i in indices] for indices in members]
    same = "Both are in the same part. "
    findings = [replace(f, remedy=same + f.remedy) for f in duplicate_images(whole, check)]
    print_findings(findings + near_neighbor_findings(parts, hashes))
    _write_lists(files, ["".join(lines[i] for i in indices) for indices in members])
    if args.replace:
        _print_other_lists(files)
    _print_result(files, parts, whole, data)
    return 0


def _add_options(parser: ArgumentParser) -> None:
    add_settings(parser, "data")
    parser.add_argument(
        "--out", type=str, required=True, metavar="DIR", help="Folder of the lists, DIR/NAME.txt"
    )
    parser.add_argument(
        "--fractions",
        type=str,
        required=True,
        metavar="A,B,...",
        help="Share of the images in each part, for example 0.8,0.1,0.1",
    )
    parser.add_argument(
        "--names",
        type=str,
        metavar="A,B,...",
        help="Names of the parts (default: train,val or train,val,test)",
    )
    parser.add_argument("--seed", type=int, default=0, help="Another seed makes another split")
    parser.add_argument(
        "--group",
        type=str,
        metavar="PATTERN",
        help="Regular expression for the group in an image's name, its first parenthesis or the "
        'whole match, for example "(seq\\d+)"; a group is never divided',
    )
    parser.add_argument(
        "--split",
        type=str,
        metavar="NAME",
        help="Divide only this split, for example train+val (default: all images with a mask)",
    )
    parser.add_argument("--replace", action="store_true", help="Replace existing lists")


def _parse_fractions(text: str) -> list[float]:
    from segcoord.data.grouped_split import check_fractions

    try:
        fractions = [float(number) for number in text.split(",")]
    except ValueError:
        raise UserError(
            f"--fractions: found {text!r}, expected numbers separated by commas, for example "
            "0.8,0.1,0.1"
        ) from None
    check_fractions(fractions)
    return fractions


def _parse_names(text: str | None, count: int) -> Sequence[str]:
    if text is None and count <= len(_NAMES):
        return _NAMES[:count]
    names = [] if text is None else [name.strip() for name in text.split(",")]
    ok = len({*names}) == len(names) == count
    ok = ok and not any(name.startswith(".") or {*name} & {*"/\\+\0\n"} for name in names)
    if not (ok and all(names)):
        found = "none" if text is None else repr(text)
        raise UserError(
            f"--names: found {found}, expected {count} different names, one for each fraction, "
            "separated by commas, without folders, + or a dot in front"
        )
    return names


def _check_outputs(files: Sequence[Path], may_replace: bool) -> None:
    from segcoord.utils.files import require_writable_path

    for file in files:
        require_writable_path(file)
        if file.exists() and not may_replace:
            raise UserError(
                f"--out: {file} exists already; choose another folder, or replace it with --replace"
            )


def _print_table(
    parts: Sequence[Split],
    members: Sequence[Sequence[int]],
    groups: Sequence[str],
    present: np.ndarray,
) -> None:
    """Print the images and groups of each part, and its share of the images with each class."""
    from rich.table import Column, Table
    from rich.text import Text

    from segcoord.utils.console import console

    heads = ["all", *(part.name for part in parts)]
    table = Table("", *(Column(h, justify="right") for h in heads), box=None, pad_edge=False)
    total = len(groups)
    shares = (f"{len(indices)} ({100 * len(indices) / total:.1f} %)" for indices in members)
    table.add_row("images", str(total), *shares)
    by_part = (str(len({groups[i] for i in indices})) for indices in members)
    table.add_row("groups", str(len({*groups})), *by_part)
    counts = [present[indices].sum(0).tolist() for indices in members]
    for name, *row in zip(parts[0].labels.names, *counts):
        if sum(row):
            cells = [f"{100 * n / sum(row):.1f} %" if n else Text("absent", "yellow") for n in row]
        else:
            cells = ["-"] * len(row)
        table.add_row(name, str(sum(row)), *cells)
    console.print(table)
    console.print("Of each class: its images, and the share of them in each part")


def _write_lists(files: Sequence[Path], texts: Sequence[str]) -> None:
    from segcoord.utils.files import atomic_write

    with ExitStack() as stack:
        for file, text in zip(files, texts):
            temporary = stack.enter_context(atomic_write(file))
            temporary.write_text(text, encoding="utf-8")
        for file in files:  # lists of two splits would share images if this ended in between
            file.unlink(missing_ok=True)


def _print_result(
    files: Sequence[Path], parts: Sequence[Split], whole: Split, data: DataConfig
) -> None:
    """Print the files, and the settings that read them."""
    import yaml

    from segcoord.data.pack.reader import describe_left_out
    from segcoord.data.split import dataset_root
    from segcoord.utils.console import console

    console.print()
    for file, part in zip(files, parts):
        console.print(f"{file}: {len(part)} images")
    if left_out := describe_left_out(whole):
        console.print(left_out.removeprefix(", "), style="yellow")
    folder = files[0].parent.resolve()
    root = dataset_root(data.root).resolve()
    folder = folder.relative_to(root) if folder.is_relative_to(root) else folder
    settings: dict[str, object] = {"lists": (folder / "{split}.txt").as_posix()}
    if data.val_fraction is not None:
        settings |= {"val_fraction": None, "split_seed": 0}
    names = [part.name for part in parts]
    train = "train" if "train" in names else names[0]
    others = [name for name in names if name != train]
    val = "val" if "val" in others else others[0]
    settings |= {"train_split": train, "val_split": val}
    console.print("\nTo use them, put these lines into the config:\n")
    console.print(
        yaml.safe_dump({"data": settings}, sort_keys=False, allow_unicode=True, width=1000), end=""
    )


def _print_other_lists(files: Sequence[Path]) -> None:
    """Warn of lists that an earlier split with other names may have left in the folder."""
    from segcoord.utils.console import console
    from segcoord.utils.text import join_first

    folder = files[0].parent
    if others := sorted({p.name for p in folder.glob("*.txt")} - {f.name for f in files}):
        console.print(
            f"{folder} also contains {join_first(others, 8)}: don't use them together with the new "
            "lists, because they may name the same images",
            style="yellow",
        )
