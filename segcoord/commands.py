"""What the smaller commands do, once their arguments are read."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from segcoord.checkpoints import load
from segcoord.console import console, counting_bar
from segcoord.counts import count, encoder_names
from segcoord.errors import UserError
from segcoord.export.attend import draw_attention
from segcoord.export.overlays import write_picture
from segcoord.photos import read_photo


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
    models = [(path, load(path, fold=False)) for path in checkpoints]
    pixels = read_photo(Path(image)).pixels
    write_picture(out, draw_attention(models, pixels, class_name, block))
    console.print(f"{out}")
