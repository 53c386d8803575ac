"""Weights of the classes in the loss, from how often they occur in the training split."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from segcoord.data.checks.split import SplitCheck

Formula = Literal["inverse", "enet", "median"]
FORMULAS: tuple[Formula, ...] = get_args(Formula)
_ENET_C = 1.02


def class_weights(check: SplitCheck, formula: Formula) -> np.ndarray:
    """(K,) float64 weights by class; 0 for a class that never occurs.

    With n_c the pixels of class c, p_c their share of all labelled pixels, and m_c the labelled
    pixels of those images in which c occurs (void never counts):

        inverse   1 / p_c, divided by its mean over the classes that occur
        enet      1 / ln(1.02 + p_c): Paszke, Chaurasia, Kim, Culurciello, "ENet", arXiv 1606.02147,
                  section 5.2; between 1.42 and 50.5
        median    median(f) / f_c with f_c = n_c / m_c, the median over the classes that occur:
                  Eigen, Fergus, ICCV 2015, arXiv 1411.4734, section 6.3.2

    Args:
        check: of the training split, with labelled pixels.
        formula: by name.
    """
    there = check.pixels > 0
    pixels = check.pixels[there].astype(np.float64)
    share = pixels / pixels.sum()
    if formula == "inverse":
        weights = 1 / share / (1 / share).mean()
    elif formula == "enet":
        weights = 1 / np.log(_ENET_C + share)
    else:
        frequency = pixels / check.within[there]
        weights = np.median(frequency) / frequency
    result = np.zeros(len(there))
    result[there] = weights
    return result
