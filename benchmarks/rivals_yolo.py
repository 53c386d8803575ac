"""Ultralytics' YOLO26n-sem in benchmarks/rivals.py, as an outside process.

Ultralytics is under the AGPL. uv installs it into an environment of its own, where its command
`yolo` trains and exports to ONNX; OpenVINO runs that file here. Weights are random: its own are
downloads, and it can't take those of MobileNetV2.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rivals_job import Job, run

VERSION = "8.4.190"
PACKAGES = [f"ultralytics=={VERSION}", "onnx>=1.18", "onnxslim", "onnxruntime"]
# Ultralytics computes with one thread less than there are cores.
ALL_CORES = "import os\ncores = len(os.sched_getaffinity(0))\nos.cpu_count = lambda: cores + 1\n"
# The size of CamVid's images, and an optimizer step for each batch: by default, gradients add up to
# 64 images, which leaves few steps in half an hour on a CPU. The others are its defaults.
SETTINGS = {"imgsz": 480, "batch": 8, "nbs": 8}
CALIBRATION = 100


def install(folder: Path) -> Path:
    """The command `yolo` in an environment of its own."""
    yolo = folder / "bin" / "yolo"
    if not yolo.exists():
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([uv, "venv", "--python", sys.executable, str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "--python", python, *PACKAGES], check=True)
        packages = next((folder / "lib").glob("python*/site-packages"))
        (packages / "sitecustomize.py").write_text(ALL_CORES)
    return yolo


def train(job: Job, model: str, names: list[str]) -> dict:
    """Train for the budget, predict val and write the network for `rivals_speed`."""
    yolo = install(Path(job.options["yolo_env"]).expanduser())
    env = {"YOLO_CONFIG_DIR": str(job.folder / "settings")}
    dataset, folder = write_dataset(job, names), job.folder / "run"
    options = SETTINGS | {
        "model": model,
        "data": dataset,
        "time": job.minutes / 60,  # in hours; decides the number of epochs
        "device": "cpu",
        "workers": 2,
        "seed": job.seed,
        "pretrained": False,
        "val": False,  # after each epoch; it counts as training time
        "plots": False,
        "project": job.folder,
        "name": folder.name,
        "exist_ok": True,
    }
    words = [str(yolo), "semantic", "train", *(f"{k}={v}" for k, v in options.items())]
    used = run(job, "train", words, 60 * job.minutes, **env)
    weights = folder / "weights" / "last.pt"
    export = [f"model={weights}", "format=onnx", "dynamic=True", f"imgsz={SETTINGS['imgsz']}"]
    run(job, "export", [str(yolo), "export", *export, "device=cpu"], **env)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import rivals_yolo; "
    code += f"rivals_yolo.predict({str(job.folder / 'request.json')!r})"
    request = {
        "onnx": str(weights.with_suffix(".onnx")),
        "folder": str(job.folder),
        "masks": str(job.masks),
        "threads": job.threads,
        "train": [str(image) for image, _ in job.paths("train")[:CALIBRATION]],
        "val": [str(image) for image, _ in job.paths("val")],
    }
    (job.folder / "request.json").write_text(json.dumps(request))
    run(job, "predict", [sys.executable, "-c", code])
    with (folder / "results.csv").open(newline="") as file:
        last = [{k.strip(): v.strip() for k, v in row.items()} for row in csv.DictReader(file)][-1]
    epochs, batch = int(last["epoch"]), SETTINGS["batch"]
    return {
        "steps": epochs * -(-len(job.paths("train")) // batch),
        "train_seconds": float(last["time"]),
        "cpu_seconds": used.cpu_seconds,
        "settings": {k: str(v) for k, v in options.items()},
        "version": f"ultralytics {VERSION}",
    }


def write_dataset(job: Job, names: list[str]) -> Path:
    """Ultralytics' folders and YAML file: links to the images, and gray masks."""
    root = job.folder / "dataset"
    for split in ("train", "val"):
        images, masks = root / "images" / split, root / "masks" / split
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for image, mask in job.paths(split):
            (images / image.name).symlink_to(image.resolve())
            Image.fromarray(np.array(Image.open(mask))).save(masks / mask.name)
    # JSON is YAML.
    content = {"path": str(root.resolve()), "train": "images/train", "val": "images/val",
               "masks_dir": "masks", "names": dict(enumerate(names))}  # fmt: skip
    (root / "data.yaml").write_text(json.dumps(content))
    return root / "data.yaml"


def to_input(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (1, 3, H', W') float32, centered in multiples of 32 as by YOLO."""
    height, width = (-n % 32 for n in image.shape[:2])
    borders = height // 2, height - height // 2, width // 2, width - width // 2
    padded = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return (padded / 255).astype(np.float32).transpose(2, 0, 1)[None].copy()


def predict(request: str) -> None:
    """Masks of val from the ONNX file, and the network's files."""
    from rivals_speed import write_network

    from segcoord.inference.sessions import OpenVinoSession

    given = json.loads(Path(request).read_text())
    session = OpenVinoSession(Path(given["onnx"]), given["threads"])
    masks = Path(given["masks"])
    masks.mkdir(exist_ok=True)
    for path in given["val"]:
        image = np.array(Image.open(path).convert("RGB"))
        classes = session(to_input(image))[0]  # (H', W') uint8
        top, left = ((n - m) // 2 for n, m in zip(classes.shape, image.shape))
        classes = classes[top : top + image.shape[0], left : left + image.shape[1]]
        Image.fromarray(classes).save(masks / f"{Path(path).stem}.png")
    inputs = [to_input(np.array(Image.open(path).convert("RGB"))) for path in given["train"]]
    write_network(given["onnx"], Path(given["folder"]), inputs)
