"""`segcoord data suspects --unlabelled`: ranks unlabeled images by what to label next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import Namespace

from segcoord.evaluation.suspects.contact_sheet import contact_sheet, fitted
from segcoord.evaluation.suspects.options import SHEET, Options, read_options
from segcoord.evaluation.suspects.outputs import print_ranking, write_csv
from segcoord.evaluation.suspects.uncertainty import Uncertainty, measure, pixel_entropy
from segcoord.inference.inputs import Source, by_suffix, find_sources, printable
from segcoord.inference.load import accelerator_for, load
from segcoord.inference.photo import read_photo
from segcoord.inference.predict import predict_probabilities
from segcoord.inference.run import MAX_PIXELS, SOME_FAILED
from segcoord.inference.visualize import blend, write_picture
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_counter
from segcoord.utils.cpu import available_cores
from segcoord.utils.devices import find_device
from segcoord.utils.errors import UserError, explain_out_of_memory
from segcoord.utils.files import write_json
from segcoord.utils.provenance import origin
from segcoord.utils.threads import map_in_threads

_COLUMNS = ("rank", "image", "score", "margin", "uncertain_classes")
_THREADS = min(4, available_cores())


@dataclass(frozen=True)
class RankedImage:
    """An image with its uncertainty."""

    source: Source
    uncertainty: Uncertainty

    @property
    def score(self) -> float:
        return self.uncertainty.entropy

    def classes(self, names: Sequence[str]) -> list[str]:
        """The at most three predicted classes with the largest shares of the entropy."""
        shares = self.uncertainty.by_class
        return [names[i] for i in np.argsort(-shares, kind="stable")[:3] if shares[i] > 0]


def run_unlabelled(args: Namespace) -> int:
    """Ranks the images of a folder and writes the requested outputs.

    Returns:
        The exit code: 0 if all were ranked, 3 if only some were, 1 if none was.
    """
    options = read_options(args)
    sources = _find_images(args.unlabelled, options.out)
    device = find_device(accelerator_for(args.checkpoint, args.device))
    model = load(args.checkpoint, device, runtime=args.runtime)
    ranked, failed = _rank(model, sources, options)
    names = model.labels.names
    if ranked:
        _write(options, ranked, names, args)
        rows = [
            (printable(each.source.name), f"{each.score:.3f}", ", ".join(each.classes(names)))
            for each in ranked
        ]
        print_ranking(("image", "score", "mostly in"), rows)
        picture = _sheet(model, ranked[: options.top], options)
        write_picture(options.out / SHEET, picture)
        for name in ("unlabelled.csv", "unlabelled.json", SHEET):
            console.print(f"{name:15} {options.out / name}")
    if not failed:
        return 0
    console.print(f"{failed} of {len(sources)} images could not be ranked", style="red")
    return SOME_FAILED if ranked else 1


def _find_images(folder: str, out: Path) -> list[Source]:
    """The images of a folder and its subfolders.

    Raises:
        UserError: no such folder, no image in it, or an output folder in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"--unlabelled {root}: no such folder; give a folder of images")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--out {out.resolve()}: is in the folder of --unlabelled, where the contact sheet "
            "would be ranked the next time; choose another folder"
        )
    sources = find_sources([str(root)], out)
    if not sources.images:
        raise UserError(f"--unlabelled {root}: found {sources}, expected images")
    skipped = by_suffix(sources.skipped)
    console.print(f"{sources}{f'; skipped: {skipped}' if skipped else ''}")
    if sources.videos:
        console.print("Videos are not ranked; extract their frames to rank them.", style="yellow")
    return sources.images


def _rank(
    model: SegmentationModel, sources: list[Source], options: Options
) -> tuple[list[RankedImage], int]:
    """The images, the most uncertain first, and how many can't be read or predicted."""
    ranked, failed = [], 0
    with (
        progress_counter("predict", len(sources)) as update,
        closing(map_in_threads(_read, sources, _THREADS, _THREADS)) as photos,
    ):
        update(0)
        for done, (source, pixels) in enumerate(photos, 1):
            try:
                if isinstance(pixels, UserError):
                    raise pixels
                ranked.append(RankedImage(source, measure(*_predict(model, pixels, options))))
            except UserError as error:
                failed += 1
                message = f"{source.shown}: {error.found} {error.remedy}".rstrip()
                console.print(message, style="red")
            update(done)
    ranked.sort(key=lambda each: -each.score)  # stable: equal scores stay in the order of names
    return ranked, failed


def _read(source: Source) -> tuple[Source, np.ndarray | UserError]:
    try:
        return source, read_photo(source.path).pixels
    except UserError as error:
        return source, error


def _predict(
    model: SegmentationModel, pixels: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 classes and (K, H, W) float16 probabilities; large images in tiles."""
    size = pixels.shape[:2]
    with explain_out_of_memory(size, "Give smaller tiles with --tile."):
        return predict_probabilities(model, pixels, options.views.within(MAX_PIXELS, size))


def _write(
    options: Options, ranked: Sequence[RankedImage], names: Sequence[str], args: Namespace
) -> None:
    """Writes unlabelled.csv and unlabelled.json."""
    rows, images = [], []
    for rank, each in enumerate(ranked, 1):
        path, margin, classes = each.source.shown, each.uncertainty.margin, each.classes(names)
        rows.append((rank, path, f"{each.score:.4f}", f"{margin:.4f}", ", ".join(classes)))
        scores = {"score": each.score, "margin": margin, "uncertain_classes": classes}
        images.append({"rank": rank, "image": path, **scores})
    write_csv(options.out / "unlabelled.csv", _COLUMNS, rows)
    protocol = {
        "checkpoint": args.checkpoint,
        "score": "mean over the pixels of -sum(p ln p) / ln K",
        **options.views.to_dict(),
        **origin(),
    }
    write_json(options.out / "unlabelled.json", {"images": images, "protocol": protocol})


def _sheet(model: SegmentationModel, ranked: Sequence[RankedImage], options: Options) -> np.ndarray:
    """Reads and predicts the images again, which is cheaper than to keep the pictures of all."""
    rows = []
    for rank, each in enumerate(ranked, 1):
        pixels = read_photo(each.source.path).pixels
        classes, probabilities = _predict(model, pixels, options)
        entropy = (255 * pixel_entropy(probabilities)).astype(np.uint8)
        heat = cv2.cvtColor(cv2.applyColorMap(entropy, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        pictures = [fitted(p) for p in (pixels, blend(pixels, classes, model.labels), heat)]
        uncertain = ", ".join(each.classes(model.labels.names))
        caption = f"{rank}. {printable(each.source.name)}", f"score {each.score:.3f}", uncertain
        rows.append((caption, pictures))
    return contact_sheet(rows, ("image", "prediction", "entropy"), model.labels)
