"""Which settings each decoder accepts, and their defaults."""

from collections.abc import Sequence

from segcoord.utils.errors import UserError

STRIDES = {
    "deeplabv3": (16, 8),
    "deeplabv3plus": (16, 8),
    "pan": (16, 32),
    "unet": (32,),
    "fpn": (32,),
    "light": (32,),
}
"""Decoder -> output strides of the encoder that it supports, the default first."""

ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Output stride -> ASPP dilation rates: DeepLabV3 (Chen et al. 2017), section 3.3, table 5."""

ASPP_DROPOUT = 0.1  # as in DeepLab's code: tensorflow/models, deeplab/model.py, keep_prob=0.9


def decoder_settings(
    decoder: str,
    output_stride: int | None,
    atrous_rates: Sequence[int] | None,
    aspp_dropout: float | None,
) -> dict:
    """Validate the settings of a decoder and fill in its defaults.

    Args:
        decoder: a key of STRIDES.
        output_stride: image size / size of the encoder's last feature map; None for the first in
            STRIDES.
        atrous_rates: three dilation rates of the ASPP; None for ATROUS_RATES.
        aspp_dropout: dropout probability after the ASPP; None for ASPP_DROPOUT.

    Raises:
        UserError: unknown decoder, or a setting that it doesn't support.
    """
    if decoder not in STRIDES:
        raise UserError(f"decoder: found {decoder!r}, expected one of {', '.join(STRIDES)}")
    strides = STRIDES[decoder]
    if output_stride is None:
        output_stride = strides[0]
    if output_stride not in strides:
        expected = " or ".join(str(stride) for stride in strides)
        raise UserError(
            f"output_stride: found {output_stride}, expected {expected} for {decoder}, or null for "
            f"{strides[0]}"
        )
    settings = {"decoder": decoder, "output_stride": output_stride}
    if not decoder.startswith("deeplabv3"):
        for key, value in (("atrous_rates", atrous_rates), ("aspp_dropout", aspp_dropout)):
            if value is not None:
                raise UserError(f"{key}: found {value}, expected null: {decoder} has no ASPP")
        return settings | {"atrous_rates": None, "aspp_dropout": None}
    rates = list(atrous_rates or ATROUS_RATES[output_stride])
    if len(rates) != 3 or not all(isinstance(r, int) and r > 0 for r in rates):
        raise UserError(f"atrous_rates: found {rates}, expected three integers above 0")
    dropout = ASPP_DROPOUT if aspp_dropout is None else aspp_dropout
    return settings | {"atrous_rates": rates, "aspp_dropout": dropout}
