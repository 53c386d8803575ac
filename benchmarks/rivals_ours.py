"""segcoord's models in benchmarks/rivals.py."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import yaml
from rivals_job import ROOT, Job, run

WARM_UP = 40  # steps, of which the first ten don't count
RECIPES = {  # decoder: its shipped configuration of CamVid
    "deeplabv3": "configs/camvid_plus_os16.yaml",
    "deeplabv3plus": "configs/camvid_plus_os16.yaml",
    "light": "configs/camvid_light.yaml",
}


def train(job: Job, decoder: str) -> dict:
    """Train for the budget, predict val, and write the network for `rivals_speed`."""
    python, packs = sys.executable, job.work / "packs"
    recipe = job.options["recipe"] or RECIPES[decoder]
    data = [f"--config={recipe}", f"--data.root={job.data}"]
    if not (packs / "val").is_dir():
        run(job, "pack", [python, "-m", "segcoord", "data", "pack", *data, f"--out={packs}"])
    settings = {
        "model.decoder": decoder,
        "model.encoder": job.options["encoder"],
        "model.encoder_weights": job.weights and str(job.weights.resolve()),
        "model.output_stride": None,  # the decoder's first
        **({"model.aspp_dropout": None} if decoder == "light" else {}),  # it has no ASPP
        "data.pack": str(packs),
        "train.accelerator": "cpu",
        "train.seed": job.seed,
    }
    train = [python, "train.py", *data]

    def steps(count: int) -> list[str]:
        length = {"train.max_steps": count, "train.val_interval": count}
        length["train.warmup_steps"] = count // 20
        return [f"--{k}={'null' if v is None else v}" for k, v in (settings | length).items()]

    run(job, "warm-up", [*train, *steps(WARM_UP), f"--run={job.folder / 'warm-up'}"])
    seconds = seconds_at(job.folder / "warm-up")
    step = (seconds[WARM_UP] - seconds[10]) / (WARM_UP - 10)
    count = max(10, round(60 * job.minutes / step))
    folder = job.folder / "run"
    used = run(job, "train", [*train, *steps(count), f"--run={folder}"], 60 * job.minutes)
    checkpoint = folder / "best.ckpt"
    evaluate = [python, "evaluate.py", f"--checkpoint={checkpoint}", f"--masks={job.masks}"]
    run(job, "predict", [*evaluate, "--data.pack=off"])
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import rivals_ours; "
    code += f"rivals_ours.write_network({str(checkpoint)!r}, {str(job.folder)!r})"
    run(job, "export", [python, "-c", code])
    origin = json.loads((folder / "origin.json").read_text())
    return {
        "steps": count,
        "train_seconds": seconds_at(folder)[count],
        "cpu_seconds": used.cpu_seconds,
        "settings": yaml.safe_load((folder / "config.yaml").read_text()),
        "version": origin.get("commit"),
    }


def seconds_at(run_folder: Path) -> dict[int, float]:
    """Training time at each logged step."""
    with (run_folder / "metrics.csv").open(newline="") as file:
        return {int(r["step"]): float(r["seconds"]) for r in csv.DictReader(file) if r["loss"]}


def write_network(checkpoint: str, folder: str) -> None:
    """fp32.xml and int8.xml of a checkpoint, as `segcoord export` writes them."""
    from infer import images_of

    import segcoord
    from segcoord.deploy import openvino
    from segcoord.deploy.graph import network_graph
    from segcoord.deploy.quantize import GraphInputs

    graph = network_graph(segcoord.load(checkpoint, fold=False))
    images = images_of(checkpoint, "train_split", 100)
    openvino.write(graph, Path(folder) / "fp32.xml", {})
    openvino.quantize(graph, Path(folder) / "int8.xml", {}, GraphInputs(graph, images))
