"""segcoord data weights."""

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse
from segcoord.utils.errors import UserError


def weights(program: str, argv: list[str]) -> int:
    """Show the class weights of the loss for each formula"""
    parser = new_parser(program, weights)
    add_settings(parser, "data")
    args = parse(parser, argv)
    from rich.table import Column, Table

    from segcoord.data.checks.run import check_split_with_progress
    from segcoord.data.checks.split import missing_labels
    from segcoord.data.class_weights import FORMULAS, class_weights
    from segcoord.data.layouts import find_split
    from segcoord.data.pack.reader import describe_left_out
    from segcoord.utils.console import console

    data = parser.instantiate(args).data
    data.check()
    split = find_split(data, data.train_split)
    counts = check_split_with_progress(split)
    for finding in missing_labels(split, counts, data):
        raise UserError(str(finding))
    columns = [class_weights(counts, formula) for formula in FORMULAS]
    numbers = (Column(head, justify="right") for head in ("pixels %", "images", *FORMULAS))
    table = Table("class", *numbers, box=None, pad_edge=False)
    percent = 100 * counts.pixels / counts.pixels.sum()
    for name, pixels, images, *row in zip(split.labels.names, percent, counts.images, *columns):
        table.add_row(name, f"{pixels:.2f}", str(images), *(f"{w:.4f}" for w in row))
    console.print(table)
    console.print(
        f"\nComputed from split {split.name}{describe_left_out(split)}. Set "
        "train.class_weights to one of these names, or to a list of numbers."
    )
    absent = [n for n, images in zip(split.labels.names, counts.images) if not images]
    if absent:
        console.print(f"Not in any mask, weight 0: {', '.join(absent)}", style="yellow")
    return 0
