"""segcoord models."""

from segcoord.cli.common import new_parser
from segcoord.config.decoders import STRIDES
from segcoord.config.loading import parse


def models(program: str, argv: list[str]) -> int:
    """List the encoders with their parameters, multiply-adds and weights"""
    parser = new_parser(program, models)
    parser.add_argument(
        "pattern", type=str, nargs="?", default="*", help='Part of a name, or a glob: "*_ca_*"'
    )
    parser.add_argument(
        "--decoder", choices=list(STRIDES), default="deeplabv3", help="Decoder for seg. counts"
    )
    parser.add_argument(
        "--output-stride",
        type=int | None,
        help="Output stride for seg. counts; default: 16, or 32 for unet, fpn and light",
    )
    args = parse(parser, argv)
    stride = args.output_stride or STRIDES[args.decoder][0]
    from rich.table import Table

    from segcoord.models.profile import count_encoder, encoder_names
    from segcoord.utils.console import console, progress_bar

    names = encoder_names(args.pattern)
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("encoder", "params", "MACs", "seg. params", "seg. MACs", "weights"):
        left = head in ("encoder", "weights")
        rows.add_column(head, justify="left" if left else "right", no_wrap=True)
    with progress_bar() as bar:
        for name in bar.track(names, description="count"):
            counts = count_encoder(name, stride, args.decoder)
            rows.add_row(
                name,
                f"{counts.parameters / 1e6:.2f} M",
                f"{counts.mega_macs:.0f} M",
                f"{counts.segmentation_parameters / 1e6:.2f} M",
                f"{counts.segmentation_giga_macs:.2f} G",
                counts.weights or "none",
            )
    console.print(rows)
    console.print(
        "\nparams, MACs (multiply-adds): with a 1000-class classifier, at 224x224.\n"
        f"seg.: {args.decoder} with 21 classes at output stride {stride}, at 512x512.\n"
        "weights: source of encoder_weights: imagenet; + new: attention without weights, see "
        "docs/weights.md."
    )
    return 0
