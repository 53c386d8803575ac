"""The user's own augmentation: an albumentations pipeline from a YAML file, seeded per sample."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segcoord.data.labels import VOID
from segcoord.utils.errors import UserError

PROBES = 8  # draws of each transform, and of the whole pipeline, in the check
_VALUES = (3, 250)  # of the mask in the check: class 0 and all between them would be invented


class CustomAugmentation:
    """Applies a pipeline to image and mask after the crop; each draw depends on the key alone.

    Every transform is checked on a sample first, because the defaults of some would train a wrong
    model without an error: a mask padded with class 0, or interpolated between class indices.

    Args:
        path: YAML or JSON file written by `albumentations.save`.
        crop_size: (h, w) of the training crops.

    Raises:
        UserError: albumentations is not installed; a file that can't be read; an unknown transform
            or argument; a transform that fails, changes size or dtype, or invents mask values.
    """

    def __init__(self, path: str | Path, crop_size: tuple[int, int]) -> None:
        self.path = Path(path).expanduser()
        self.pipeline = self._load()
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*crop_size, 3), dtype=np.uint8)
        mask = np.full(crop_size, _VALUES[0], np.uint8)
        mask[crop_size[0] // 3 :, crop_size[1] // 3 :] = _VALUES[1]
        for transform in (*_transforms(self.pipeline), self.pipeline):
            for seed in range(PROBES):
                transform.set_random_seed(seed)
                self._check(transform, image, mask)

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, key: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augments (h, w, 3) uint8 RGB and (h, w) uint8; `key` is (seed, epoch, index)."""
        # A random stream other than that of the color jitter.
        seed = int(np.random.SeedSequence((*key, 1)).generate_state(1)[0])
        self.pipeline.set_random_seed(seed)
        result = self.pipeline(image=image, mask=mask)
        return result["image"], result["mask"]

    def _load(self):  # -> albumentations.Compose
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks a server at import
        try:
            import albumentations
        except ImportError as error:
            raise UserError(
                "data.augmentation needs albumentations: pip install 'segcoord[albumentations]'"
            ) from error
        if not self.path.is_file():
            raise UserError(f"data.augmentation: {self.path}: no such file")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Argument")  # an unknown one is only a warning
                kind = "json" if self.path.suffix == ".json" else "yaml"
                pipeline = albumentations.load(self.path, kind)
        except Exception as error:  # of PyYAML, pydantic, or the registry of transforms
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise self._error(
                f"not a pipeline of albumentations {albumentations.__version__} ({reason})",
                "Write it with albumentations.save.",
            ) from error
        compose = albumentations.Compose
        return pipeline if isinstance(pipeline, compose) else compose([pipeline])

    def _check(self, transform, image: np.ndarray, mask: np.ndarray) -> None:
        name = type(transform).__name__
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = transform(image=image, mask=mask, force_apply=True)
        except Exception as error:
            raise self._error(f"{name} fails on a crop: {error}", "Remove it.") from error
        for kind, before in (("image", image), ("mask", mask)):
            after = np.asarray(result[kind])
            if after.shape != before.shape:
                raise self._error(
                    f"{name} changes the {kind} from {before.shape} to {after.shape}",
                    "Set data.crop_size and data.scale instead of cropping or resizing here.",
                )
            if after.dtype != np.uint8:
                raise self._error(
                    f"{name} returns the {kind} as {after.dtype}, expected uint8",
                    "Remove it: the model normalizes its images itself.",
                )
        invented = sorted({*np.unique(result["mask"]).tolist()} - {*_VALUES, VOID})
        if invented:
            raise self._error(
                f"{name} writes values into the mask that are not in it ({invented[:4]})",
                f"Set fill_mask to {VOID} (void) and mask_interpolation to 0 (nearest).",
            )

    def _error(self, found: str, remedy: str) -> UserError:
        return UserError(f"data.augmentation: {self.path}: {found}. {remedy}")


def _transforms(pipeline) -> Iterator:
    """The transforms of a pipeline, those of its compositions (OneOf, SomeOf, ...) one by one."""
    from albumentations.core.composition import BaseCompose

    for each in pipeline.transforms:
        yield from _transforms(each) if isinstance(each, BaseCompose) else [each]
