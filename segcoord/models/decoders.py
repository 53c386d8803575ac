"""Builds networks: smp's decoders or `Light` on any encoder."""

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _NoRandomMetaValues(TorchFunctionMode):
    """Skips the random initialization of tensors on the meta device, which have no values.

    smp builds each encoder on that device first. There, PyTorch 2.15 imports torch._dynamo for
    `normal_`, which takes seconds.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("tensor")
        random = getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_")
        if random and isinstance(x, Tensor) and x.is_meta:
            return x
        return func(*args, **kwargs)


def build_network(
    encoder: str, num_classes: int, settings: dict, **encoder_kwargs: object
) -> nn.Module:
    """Builds a network with random weights, (N, 3, H, W) -> (N, num_classes, H/d, W/d).

    smp's upsampling to the input size is off (`upsampling=1`) where it is optional, because
    `SegmentationModel` upsamples.

    Args:
        encoder: timm name.
        num_classes: channels of the output.
        settings: from `decoder_settings`.
        encoder_kwargs: further keyword arguments of the encoder.
    """
    import segmentation_models_pytorch as smp  # takes seconds

    common = {"encoder_weights": None, "classes": num_classes, **encoder_kwargs}
    stride = {"encoder_output_stride": settings["output_stride"]}
    aspp = {
        "decoder_atrous_rates": settings["atrous_rates"],
        "decoder_aspp_separable": True,
        "decoder_aspp_dropout": settings["aspp_dropout"],
    }
    name = f"tu-{encoder}"
    with _NoRandomMetaValues():
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
            case "light":
                from segcoord.models.light import Light

                net = Light(name, upsampling=1, **common)
    if settings["decoder"].startswith("deeplabv3"):
        from segcoord.models.aspp import keep_memory_format

        keep_memory_format(net)
        net.initialize()  # smp initializes every decoder but these
    return net
