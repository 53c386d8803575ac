"""What the page asks for, as plain types in and out; it keeps nothing of what it was given."""

from __future__ import annotations

import base64
import binascii
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec

import cv2
import numpy as np

from segcoord.data.mask_files import mask_image
from segcoord.deploy.demo.images import (
    MAX_BYTES,
    MAX_PIXELS,
    RefusedImage,
    decode,
    encode,
    thumbnail,
)
from segcoord.deploy.demo.models import ModelChoice
from segcoord.inference.explain import explain, grad_cam
from segcoord.inference.explain_figure import colored, gate_cells
from segcoord.inference.predict import predict


def error_response(answer: Callable[..., dict]) -> Callable[..., dict]:
    """Mistakes become {"error": words}; of any other error the page learns only that there was."""

    @wraps(answer)
    def wrapped(self: Handlers, asked: dict) -> dict:
        try:
            with self.lock:  # one at a time: each uses all cores
                return answer(self, asked)
        except RefusedImage as error:
            return {"error": str(error)}
        except Exception:
            traceback.print_exc()
            return {"error": "Something went wrong on the server; its terminal says what."}

    return wrapped


class Handlers:
    """The functions that the page calls.

    Args:
        choices: the models.
        samples: (H, W, 3) uint8 RGB images to try.
    """

    def __init__(self, choices: Sequence[ModelChoice], samples: Sequence[np.ndarray]) -> None:
        self.choices, self.samples = choices, samples
        self.lock = threading.Lock()

    @error_response
    def start(self, _: object) -> dict:
        """What the page shows before anything is asked."""
        return {
            "choices": [self._describe(choice) for choice in self.choices],
            "samples": [thumbnail(image) for image in self.samples],
            "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS},
        }

    @error_response
    def segment(self, asked: dict) -> dict:
        """The classes of an image.

        Args:
            asked: {"choice": index, "image": file in base64, or "sample": index}.

        Returns:
            The picture as shown, class indices, the mask file to download, shares of the classes
            in it, the largest first, and the seconds that the prediction took.
        """
        choice, image = self._choice(asked), self._image(asked)
        begin = time.perf_counter()
        classes = predict(choice.model, image)  # (H, W) uint8
        seconds = time.perf_counter() - begin
        labels = choice.model.labels
        counts = np.bincount(classes.ravel(), minlength=len(labels))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {
            "picture": encode(image),
            "classes": encode(classes),
            "mask": encode(mask_image(classes, labels, palette=True)),
            "size": [image.shape[1], image.shape[0]],
            "areas": [{"class": i, "share": float(counts[i] / classes.size)} for i in order],
            "seconds": seconds,
        }

    @error_response
    def explain(self, asked: dict) -> dict:
        """Grad-CAM of a class and the gates of the last attention, as pictures over the image.

        Args:
            asked: as of `segment`, and {"class": index}.
        """
        asked_for, image = self._choice(asked), self._image(asked)
        choice = self._explaining(asked_for)
        model, index = choice.model, asked.get("class")
        if not isinstance(index, int) or not 0 <= index < len(model.labels):
            raise RefusedImage(f"There is no class of number {index}.")
        begin = time.perf_counter()
        look = explain(choice.name, model, image, None)
        pixels = look.prediction == index
        if not pixels.any():
            pixels[:] = True
        cam = grad_cam(model, image, index, look.block, pixels)
        heat = colored(cam, 0, 1, cv2.COLORMAP_TURBO) if cam.any() else None
        note = f"Grad-CAM of {model.labels.names[index]} in {look.block}"
        if choice is not asked_for:
            note += f" of {choice.name}"
        layers = [_layer(heat, note if cam.any() else f"{note}: zero everywhere", (0, 1))]
        for cell in gate_cells(look, *image.shape[:2]):
            low, high, _ = cell.scale or (0, 0, 0)
            layers.append(_layer(cell.picture, cell.caption.replace("\n", " "), (low, high)))
        return {
            "layers": dict(zip(("cam", "rows", "columns", "both"), layers)),
            "seconds": time.perf_counter() - begin,
        }

    def _describe(self, choice: ModelChoice) -> dict:
        model = choice.model
        spec = model.spec
        return {
            "name": choice.name,
            "runtime": choice.runtime,
            "about": f"{spec['decoder']} on {spec['encoder']}, stride {model.output_stride}",
            "classes": [{"name": c.name, "color": list(c.color)} for c in model.labels.classes],
        }

    def _choice(self, asked: dict) -> ModelChoice:
        number = asked.get("choice")
        if not isinstance(number, int) or not 0 <= number < len(self.choices):
            raise RefusedImage(f"There is no model of number {number}.")
        return self.choices[number]

    def _image(self, asked: dict) -> np.ndarray:
        if "sample" in asked:
            number = asked["sample"]
            if not isinstance(number, int) or not 0 <= number < len(self.samples):
                raise RefusedImage(f"There is no sample of number {number}.")
            return self.samples[number]
        try:
            content = base64.b64decode(asked.get("image", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise RefusedImage("The upload came damaged; send it again.") from error
        return decode(content)

    def _explaining(self, choice: ModelChoice) -> ModelChoice:
        """The choice itself, or for an exported file a checkpoint of the same kind."""
        if find_spec("pytorch_grad_cam") is None:
            raise RefusedImage("Grad-CAM needs a package: pip install 'segcoord[attend]'")
        for other in (choice, *self.choices):
            alike = other.model.spec == choice.model.spec
            if other.explains and alike and other.model.labels == choice.model.labels:
                return other
        raise RefusedImage(
            "An exported file can't be looked into. Start the demo with its checkpoint too."
        )


def _layer(picture: np.ndarray | None, note: str, ends: tuple[float, float]) -> dict:
    shown = None if picture is None else encode(picture)
    return {"picture": shown, "note": note, "ends": [float(end) for end in ends]}
