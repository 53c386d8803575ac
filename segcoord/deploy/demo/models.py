"""Loads the models of the demo: each checkpoint in each runtime that can run it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segmentation_models_pytorch.base import SegmentationModel as SmpModel

from segcoord.inference.explain import blocks
from segcoord.inference.load import load
from segcoord.inference.sessions import RUNTIMES, check_runtime_name
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


@dataclass(frozen=True)
class ModelChoice:
    """One entry of the page's model list."""

    name: str  # of the run or folder, without its path
    runtime: str  # one of `RUNTIMES`
    model: SegmentationModel  # in eval mode

    @property
    def explainable(self) -> bool:
        """Whether Grad-CAM and gates can be computed; exported files have no layers."""
        return isinstance(self.model.net, SmpModel) and bool(blocks(self.model))


def load_models(paths: Sequence[str], runtimes: Sequence[str] | None) -> list[ModelChoice]:
    """Loads each path in each runtime that supports it.

    Args:
        paths: checkpoints and exported folders.
        runtimes: default: all.

    Raises:
        UserError: an unknown runtime, one that supports no path, or a path that can't be loaded.
    """
    for runtime in runtimes or ():
        check_runtime_name(runtime)
    choices: list[ModelChoice] = []
    errors: dict[str, UserError] = {}
    for path, name in zip(paths, _display_names(paths)):
        path_errors = {}
        for runtime in runtimes or RUNTIMES:
            try:
                choices.append(ModelChoice(name, runtime, load(path, runtime=runtime)))
            except UserError as error:
                path_errors[runtime] = error
        if len(path_errors) == len(runtimes or RUNTIMES):
            raise next(iter(path_errors.values()))
        errors |= path_errors
    missing = {*(runtimes or ())} - {choice.runtime for choice in choices}
    if missing:
        raise errors[min(missing)]
    return choices


def _display_names(paths: Sequence[str]) -> list[str]:
    """The folder of a checkpoint, or an exported folder's own name; duplicates are numbered."""
    resolved = [Path(path).resolve() for path in paths]
    names = [(path if path.is_dir() else path.parent).name or "model" for path in resolved]
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
