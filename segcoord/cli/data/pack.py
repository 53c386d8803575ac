"""segcoord data pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse
from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    from segcoord.data.split import Split


def pack(program: str, argv: list[str]) -> int:
    """Decode a dataset once into packs, which training reads faster than image files"""
    parser = new_parser(program, pack)
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="Pack only this split (default: train and val)")
    parser.add_argument(
        "--out", type=str, metavar="DIR", help="Write DIR/SPLIT (default: .segcoord in the dataset)"
    )
    parser.add_argument("--workers", type=int, help="Decoding processes (default: all cores)")
    parser.add_argument(
        "--verify", action="store_true", help="Write nothing; verify every byte of existing packs"
    )
    args = parse(parser, argv)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers: found {args.workers}, expected 1 or more")
    from segcoord.data.layouts import find_split
    from segcoord.data.pack.reader import describe_left_out, open_pack, pack_root, verify
    from segcoord.data.pack.writer import refuse_to_replace, write_pack
    from segcoord.utils.console import console, progress_counter

    data = parser.instantiate(args).data
    data.check()
    packs = Path(args.out).expanduser() if args.out else pack_root(data)
    names = [args.split] if args.split else list(dict.fromkeys((data.train_split, data.val_split)))
    for name in names:
        refuse_to_replace(packs / name)
    for name in names:
        split, folder = find_split(data, name), packs / name
        if args.verify:
            if not folder.exists():
                raise UserError(f"{folder}: no pack to verify; write it with segcoord data pack")
            existing = open_pack(folder, split)
            with progress_counter(f"verify {name}", len(split)) as update:
                verify(existing, split, update)
            console.print(f"{folder}: verified {len(split)} images")
        elif not _up_to_date(folder, split):
            with progress_counter(f"pack {name}", len(split)) as update:
                write_pack(split, folder, args.workers, update)
            size = sum(p.stat().st_size for p in folder.iterdir())
            left_out = describe_left_out(split)
            console.print(f"{folder}: {len(split)} images, {size / 1e6:.1f} MB{left_out}")
    if packs != pack_root(data) and not args.verify:
        console.print(f"To use it: --data.pack {args.out}")
    return 0


def _up_to_date(folder: Path, split: Split) -> bool:
    """Whether a valid pack exists; prints so, or why the existing one must be replaced."""
    from segcoord.data.pack.reader import REMEDY, open_pack
    from segcoord.utils.console import console

    if not folder.exists():
        return False
    try:
        open_pack(folder, split)
    except UserError as error:
        console.print(f"{str(error).removesuffix(REMEDY)}Writing it again.")
        return False
    console.print(f"{folder}: is up to date")
    return True
