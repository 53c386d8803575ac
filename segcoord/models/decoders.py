"""smp's decoders by name, on any encoder: what each takes, and one way to build them.

Their upsampling to full size is left out (`upsampling=1`) where smp has it as an option: our
wrapper has the one rule for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build_network(
    encoder: str, num_classes: int, settings: dict, **encoder_settings: object
) -> nn.Module:
    """An smp network at random weights, (N, 3, H, W) -> (N, num_classes, H/d, W/d).

    Args:
        encoder: a timm name.
        num_classes: channels of the output.
        settings: from `decoder_settings`.
        encoder_settings: further keywords of the encoder.
    """
    import segmentation_models_pytorch as smp  # seconds, which the checks of settings go without

    common = {"encoder_weights": None, "classes": num_classes, **encoder_settings}
    stride = {"encoder_output_stride": settings["output_stride"]}
    aspp = {
        "decoder_atrous_rates": settings["atrous_rates"],
        "decoder_aspp_separable": True,
        "decoder_aspp_dropout": settings["aspp_dropout"],
    }
    name = f"tu-{encoder}"
    match settings["decoder"]:
        case "deeplabv3":
            net = smp.DeepLabV3(name, upsampling=1, **stride, **aspp, **common)
        case "deeplabv3plus":
            net = smp.DeepLabV3Plus(name, upsampling=1, **stride, **aspp, **common)
        case "pan":
            net = smp.PAN(name, upsampling=1, **stride, **common)
        case "unet":
            net = smp.Unet(name, **common)
        case "fpn":
            net = smp.FPN(name, upsampling=1, **common)
    if settings["decoder"].startswith("deeplabv3"):
        from segcoord.models.aspp import keep_format

        keep_format(net)
        net.initialize()  # smp does it for every decoder but these
    return net
