"""What the smaller commands do, once their arguments are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.table import Table

from segcoord.checkpoints import load
from segcoord.config import DataConfig
from segcoord.console import console, counting_bar
from segcoord.counts import count, encoder_names
from segcoord.data.layouts import Split, find_split
from segcoord.data.pack import REMEDY, open_pack, packs_folder, verify
from segcoord.data.packing import write_pack
from segcoord.data.reading import read_image
from segcoord.errors import UserError
from segcoord.export.attend import draw_attention
from segcoord.export.overlays import write_picture

SHEET_ROWS = 6


def list_models(pattern: str, output_stride: int) -> None:
    """Prints our encoders, those that match a pattern, with their counts."""
    names = encoder_names(pattern)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("encoder", "params", "MACs", "seg. params", "seg. MACs"):
        table.add_column(head, justify="left" if head == "encoder" else "right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    with counting_bar() as bar:
        for name in bar.track(names, description="count"):
            counts = count(name, output_stride)
            table.add_row(
                name,
                f"{counts.parameters / 1e6:.2f} M",
                f"{counts.mega_macs:.0f} M",
                f"{counts.segmentation_parameters / 1e6:.2f} M",
                f"{counts.segmentation_giga_macs:.2f} G",
                counts.weights or "none",
            )
    console.print(table)
    console.print(
        "\nparams, MACs (multiply-adds): with a classifier of 1000 classes, at 224x224.\n"
        f"seg.: as DeepLabV3 of 21 classes at output stride {output_stride}, at 512x512.\n"
        "weights: what encoder_weights: imagenet takes; + random: the attention starts at random."
    )


def draw_attend(paths: list[str], class_name: str | None, block: str | None, out: Path) -> None:
    """Draws a row for each checkpoint in `paths`, of which the last is the image."""
    *checkpoints, image = paths
    if not checkpoints:
        raise UserError(f"found {image} alone, expected CHECKPOINT... and then IMAGE")
    if Path(image).suffix == ".ckpt":
        raise UserError(f"{image}: a checkpoint stands last, where the image is expected")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png")
    models = [(path, load(path)) for path in checkpoints]
    pixels = read_image(Path(image))
    write_picture(out, draw_attention(models, pixels, class_name, block))
    console.print(f"{out}")


def pack_data(
    data: DataConfig, name: str | None, out: str | None, workers: int | None, check_only: bool
) -> None:
    """Writes or verifies the packs of one split, or of the training and the validation split."""
    data.check()
    packs = Path(out).expanduser() if out else packs_folder(data)
    for each in [name] if name else dict.fromkeys((data.train_split, data.val_split)):
        split, folder = find_split(data, each), packs / each
        if check_only:
            pack = open_pack(folder, split)
            with counting_bar() as bar:
                task = bar.add_task(f"verify {each}", total=len(split))
                verify(pack, split, lambda task=task: bar.advance(task))
            console.print(f"{folder}: every byte of {len(split)} images is as it was written")
        elif not _up_to_date(folder, split):
            with counting_bar() as bar:
                task = bar.add_task(f"pack {each}", total=len(split))
                progress = partial(bar.update, task)
                write_pack(split, folder, workers, lambda n, tell=progress: tell(completed=n))
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
