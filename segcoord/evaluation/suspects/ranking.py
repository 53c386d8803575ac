"""Rank images by the likelihood that one of their labels is wrong, with confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
70, 2021: the self-confidence of a class, the mean probability that a model gives it where the
labels have it, tells how much a probability of that class means. A network that gives the pixels of
poles a probability of 0.4 on average doesn't contradict a pole where it finds 0.3.

Shapes: K classes, images of (H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segcoord.evaluation.suspects.regions import Region, find_regions

WHOLE = 0.8
"""Share of a connected segment from which a region counts as all of it."""

MISFIT, LEAST_MISFIT = 2.0, 0.1
"""A mask may belong to another image if this many times the median share of its pixels disagree,
and at least this share."""


@dataclass(frozen=True, slots=True)
class ScoredRegion:
    """A region with its score, 0 to 1, and what may be wrong."""

    region: Region
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image with regions where its labels may be wrong."""

    index: int
    """As given to `SuspectRanking.add`."""
    score: float
    """0 to 1: the highest score of its regions."""
    disagreement: float
    """Share of the labeled pixels whose prediction differs."""
    regions: Sequence[ScoredRegion]
    """The worst first."""

    @property
    def worst(self) -> ScoredRegion:
        return self.regions[0]


class SuspectRanking:
    """Collects the regions of the images of a dataset, and ranks the images.

    Memory grows by at most `regions.MAX_REGIONS` regions per image.

    Args:
        names: of the K classes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._probability = np.zeros(len(names))
        self._pixels = np.zeros(len(names), np.int64)
        self._images: list[tuple[int, float, list[Region]]] = []

    def add(
        self, index: int, labels: np.ndarray, prediction: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Adds an image. One without labeled pixels is ignored.

        Args:
            index: returned with its rank.
            labels: (H, W) uint8 class indices, 255 for void.
            prediction: (H, W) uint8 class indices.
            probabilities: (K, H, W) floats, which sum to 1 at each pixel.
        """
        k = len(self.names)
        labeled = labels < k
        pixels = int(labeled.sum())
        if not pixels:
            return
        support = probability_of(probabilities, np.minimum(labels, k - 1))
        confidence = probability_of(probabilities, prediction)
        given = labels[labeled]
        self._pixels += np.bincount(given, minlength=k)
        self._probability += np.bincount(given, support[labeled], k)
        differing = int((prediction[labeled] != given).sum())
        regions = find_regions(labels, prediction, confidence, support)
        self._images.append((index, differing / pixels, regions))

    @property
    def images(self) -> int:
        """Number of images with labeled pixels."""
        return len(self._images)

    @property
    def pixels(self) -> np.ndarray:
        """(K,) int64: labeled pixels of each class."""
        return self._pixels

    @property
    def self_confidence(self) -> np.ndarray:
        """(K,) float64: mean probability of each class over the pixels labeled as it.

        1 for a class without labeled pixels, whose probabilities then count as they are.
        """
        return np.where(self._pixels > 0, self._probability / np.maximum(self._pixels, 1), 1.0)

    def ranked(self) -> list[Suspect]:
        """The images that have a region with a score above 0, the most suspect first."""
        self_confidence = self.self_confidence
        median = float(np.median([share for _, share, _ in self._images] or [0]))
        suspects = []
        for index, disagreement, regions in self._images:
            misfit = disagreement >= max(LEAST_MISFIT, MISFIT * median)
            scored = [(region_score(region, self_confidence), region) for region in regions]
            scored = sorted((each for each in scored if each[0] > 0), key=lambda each: -each[0])
            if not scored:
                continue
            reasons = [describe(region, self.names) for _, region in scored]
            if misfit:
                reasons[0] += f"; {disagreement:.0%} of the mask disagrees"
            found = [ScoredRegion(r, score, text) for (score, r), text in zip(scored, reasons)]
            suspects.append(Suspect(index, found[0].score, disagreement, found))
        return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.index))


def probability_of(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The probability of a class at each pixel.

    Args:
        probabilities: (K, H, W) floats.
        classes: (H, W) class indices, below K.

    Returns:
        (H, W) float32.
    """
    index = classes[None].astype(np.intp)
    return np.take_along_axis(probabilities, index, 0)[0].astype(np.float32)


def region_score(region: Region, self_confidence: np.ndarray) -> float:
    """How likely the labels of a region are wrong, 0 to 1.

    thickness * (p_predicted - min(1, p_given / t_given)), at least 0, where p are the region's mean
    probabilities and t is the self-confidence of the given class. If t is at most
    1 / K, as by chance, the score is 0: the model doesn't know the class.

    Args:
        region: from `find_regions`.
        self_confidence: (K,) t, from `SuspectRanking`.
    """
    usual = self_confidence[region.given]
    backed = min(1, region.support / usual) if usual > 1 / len(self_confidence) else 1
    return float(region.thickness * max(0, region.confidence - backed))


def describe(region: Region, names: Sequence[str]) -> str:
    """What may be wrong with the labels of a region, in a few words."""
    given, predicted = names[region.given], names[region.predicted]
    if region.part_of_labeled >= WHOLE:
        return f"labeled {given}, looks like {predicted}"
    if region.part_of_predicted >= WHOLE:
        return f"{predicted} not labeled in {given}"
    return f"{given} extends over {predicted}"
