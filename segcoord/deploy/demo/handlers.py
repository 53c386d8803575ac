"""The requests of the page: JSON-serializable input and output; uploads are not kept."""

from __future__ import annotations

import base64
import binascii
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np

from segcoord.data.mask_writer import mask_image
from segcoord.deploy.demo import images
from segcoord.deploy.demo.images import RequestError, encode
from segcoord.deploy.demo.models import ModelChoice
from segcoord.inference.explain import explain, grad_cam
from segcoord.inference.explain_figure import colored, gate_cells
from segcoord.inference.predict import predict


def handle_errors(handler: Callable[..., dict]) -> Callable[..., dict]:
    """Returns {"error": message} for a RequestError; logs any other error and hides its text."""

    @wraps(handler)
    def wrapped(self: Handlers, request: dict) -> dict:
        try:
            with self.lock:  # one request at a time: each uses all cores
                return handler(self, request)
        except RequestError as error:
            return {"error": str(error)}
        except Exception:
            traceback.print_exc()
            return {"error": "The server failed; its terminal shows the error."}

    return wrapped


class Handlers:
    """The functions that the page calls; `samples` are (H, W, 3) uint8 RGB example images."""

    def __init__(self, choices: Sequence[ModelChoice], samples: Sequence[np.ndarray]) -> None:
        self.choices, self.samples = choices, samples
        self.lock = threading.Lock()

    @handle_errors
    def start(self, _: object) -> dict:
        """Models, thumbnails of the samples and upload limits."""
        return {
            "choices": [self._describe(choice) for choice in self.choices],
            "samples": [images.thumbnail(image) for image in self.samples],
            "limits": {"bytes": images.MAX_BYTES, "pixels": images.MAX_PIXELS},
        }

    @handle_errors
    def segment(self, request: dict) -> dict:
        """Predicts the class of each pixel.

        Args:
            request: {"choice": index, "image": base64 of a file, or "sample": index}.

        Returns:
            "image", "classes" (indices) and "mask" (for download) as data URLs, "size" (width,
            height), "areas" with the fraction of each class present, largest first, and the
            "seconds" of the prediction.
        """
        choice, image = self._choice(request), self._image(request)
        begin = time.perf_counter()
        classes = predict(choice.model, image)  # (H, W) uint8
        seconds = time.perf_counter() - begin
        labels = choice.model.labels
        counts = np.bincount(classes.ravel(), minlength=len(labels))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {
            "image": encode(image),
            "classes": encode(classes),
            "mask": encode(mask_image(classes, labels, palette=True)),
            "size": [image.shape[1], image.shape[0]],
            "areas": [{"class": i, "fraction": float(counts[i] / classes.size)} for i in order],
            "seconds": seconds,
        }

    @handle_errors
    def explain(self, request: dict) -> dict:
        """Overlays of Grad-CAM for a class and of the last attention's gates.

        Args:
            request: as for `segment`, and {"class": index}.

        Returns:
            "layers" (cam, rows, columns, both), each with "image", "caption" and "range", and the
            "seconds" of the computation.
        """
        requested, image = self._choice(request), self._image(request)
        choice = self._explainable(requested)
        model, index = choice.model, request.get("class")
        name = _item(model.labels.names, index, "class")
        begin = time.perf_counter()
        explanation = explain(choice.name, model, image, None)
        pixels = explanation.prediction == index
        if not pixels.any():
            pixels[:] = True
        cam = grad_cam(model, image, index, explanation.block, pixels)
        caption = f"Grad-CAM of {name} in {explanation.block}"
        if choice is not requested:
            caption += f" of {choice.name}"
        heat = colored(cam, 0, 1, cv2.COLORMAP_TURBO) if cam.any() else None
        if heat is None:
            caption += ": zero everywhere"
        layers = [_layer(heat, caption, (0, 1))]
        for cell in gate_cells(explanation, *image.shape[:2]):
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
            "description": f"{spec['decoder']} on {spec['encoder']}, stride {model.output_stride}",
            "classes": [{"name": c.name, "color": list(c.color)} for c in model.labels.classes],
        }

    def _choice(self, request: dict) -> ModelChoice:
        return _item(self.choices, request.get("choice"), "model")

    def _image(self, request: dict) -> np.ndarray:
        if "sample" in request:
            return _item(self.samples, request["sample"], "sample")
        try:
            content = base64.b64decode(request.get("image", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise RequestError("The upload is damaged; send it again.") from error
        return images.decode(content)

    def _explainable(self, choice: ModelChoice) -> ModelChoice:
        """The choice itself, or for an exported file a checkpoint of the same architecture."""
        if find_spec("pytorch_grad_cam") is None:
            raise RequestError("Grad-CAM needs a package: pip install 'segcoord[attend]'")
        for other in (choice, *self.choices):
            same_spec = other.model.spec == choice.model.spec
            if other.explainable and same_spec and other.model.labels == choice.model.labels:
                return other
        raise RequestError(
            "An exported file has no layers to explain. Start the demo with its checkpoint too."
        )


def _item(items: Sequence, index: object, kind: str) -> Any:
    """The item that a request asks for; raises RequestError if there is none."""
    if not isinstance(index, int) or not 0 <= index < len(items):
        raise RequestError(f"There is no {kind} {index}.")
    return items[index]


def _layer(image: np.ndarray | None, caption: str, value_range: tuple[float, float]) -> dict:
    encoded = None if image is None else encode(image)
    return {"image": encoded, "caption": caption, "range": [float(v) for v in value_range]}
