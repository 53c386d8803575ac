"""The models of a demo: each checkpoint by each runtime that can run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segmentation_models_pytorch.base import SegmentationModel as SmpModel

from segcoord.inference.explain import blocks
from segcoord.inference.load import load
from segcoord.inference.runtimes import RUNTIMES, check_runtime_name
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


@dataclass(frozen=True)
class ModelChoice:
    """One entry of the page's list.

    Args:
        name: of the run or folder, never its path.
        runtime: of segcoord.runtimes.
        model: in eval mode.
    """

    name: str
    runtime: str
    model: SegmentationModel

    @property
    def explains(self) -> bool:
        """Whether its layers can be looked into, which those of an exported file can't."""
        return isinstance(self.model.net, SmpModel) and bool(blocks(self.model))


def load_models(paths: Sequence[str], runtimes: Sequence[str] | None) -> list[ModelChoice]:
    """Loads each path by each runtime that it offers.

    Args:
        paths: checkpoints and exported folders.
        runtimes: those to offer; all unless given.

    Raises:
        UserError: an unknown runtime, one that no path offers, or a path that can't be loaded.
    """
    for runtime in runtimes or ():
        check_runtime_name(runtime)
    choices: list[ModelChoice] = []
    refused: dict[str, UserError] = {}
    for path, name in zip(paths, _names(paths)):
        before = len(choices)
        first: UserError | None = None
        for runtime in runtimes or RUNTIMES:
            try:
                choices.append(ModelChoice(name, runtime, load(path, runtime=runtime)))
            except UserError as error:
                first = first or error
                refused[runtime] = error
        if len(choices) == before:
            raise first
    lacking = {*(runtimes or ())} - {choice.runtime for choice in choices}
    if lacking:
        raise refused[min(lacking)]
    return choices


def _names(paths: Sequence[str]) -> list[str]:
    """The folder of a checkpoint, or an exported folder's own name; numbered where alike."""
    whole = [Path(path).resolve() for path in paths]
    names = [(path if path.is_dir() else path.parent).name or "model" for path in whole]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        if names.count(name) > 1 or seen[name] > 1:
            names[i] = f"{name} ({seen[name]})"
    return names
