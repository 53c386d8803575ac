"""Class weights of the loss, computed from the class frequencies of the training split."""

from typing import Literal, get_args

import numpy as np

from segcoord.data.checks.split import SplitCheck

Formula = Literal["inverse", "enet", "median"]
FORMULAS: tuple[Formula, ...] = get_args(Formula)
_ENET_C = 1.02


def class_weights(check: SplitCheck, formula: Formula) -> np.ndarray:
    """Return (K,) float64 class weights; 0 for a class that never occurs.

    n_c is the number of pixels of class c, p_c their fraction of all labeled pixels, and m_c the
    number of labeled pixels in images that contain c. Void pixels are never counted.

        inverse   1 / p_c, divided by its mean over the classes that occur
        enet      1 / ln(1.02 + p_c), between 1.42 and 50.5: Paszke, Chaurasia, Kim, Culurciello,
                  "ENet", arXiv 1606.02147, section 5.2
        median    median(f) / f_c with f_c = n_c / m_c and the median over the classes that occur:
                  Eigen, Fergus, ICCV 2015, arXiv 1411.4734, section 6.3.2

    `check` is that of the training split, which must have labeled pixels.
    """
    present = check.pixels > 0
    pixels = check.pixels[present].astype(np.float64)
    fraction = pixels / pixels.sum()
    if formula == "inverse":
        weights = 1 / fraction / (1 / fraction).mean()
    elif formula == "enet":
        weights = 1 / np.log(_ENET_C + fraction)
    else:
        frequency = pixels / check.pixels_where_present[present]
        weights = np.median(frequency) / frequency
    result = np.zeros(len(present))
    result[present] = weights
    return result
