"""Races segcoord's models against other programs: equal minutes on equal cores, one judge.

    python benchmarks/rivals.py --data DIR --work DIR --minutes 30 [--weights FILE] [--threads 2]

Trains segcoord's DeepLabV3, DeepLabV3+ and light decoder, smp's DeepLabV3 and U-Net in a plain
loop, and Ultralytics' yolo26n-sem as an outside process, each for the same minutes on the same
cores, from random weights and, with --weights (timm's mobilenetv2_100), from ImageNet weights if it
takes them. `segcoord score` scores the predictions of val at their original size. Then measures all
networks in OpenVINO in one run, on all cores. Each finished part leaves a JSON in --work; the same
command continues with the others. Writes rivals.md and rivals.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from datetime import date
from pathlib import Path

import rivals_ours
import rivals_smp
import rivals_table
import rivals_yolo
from rivals_job import ROOT, Job, run

from segcoord.config.classes import parse_classes
from segcoord.config.loading import read_yaml

ENTRIES = {  # name: kind and network
    "segcoord DeepLabV3": ("ours", "deeplabv3"),
    "segcoord DeepLabV3+": ("ours", "deeplabv3plus"),
    "segcoord light": ("ours", "light"),
    "smp DeepLabV3": ("smp", "DeepLabV3"),
    "smp U-Net": ("smp", "Unet"),
    "YOLO26n-sem": ("yolo", "yolo26n-sem.yaml"),
}
ROUNDS = 9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset in VOC's layout")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, required=True, help="of each training")
    parser.add_argument("--weights", type=Path, help="timm's mobilenetv2_100, a state dict")
    parser.add_argument("--threads", type=int, default=2, help="and cores of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="configs/camvid_os16.yaml", help="of the dataset")
    parser.add_argument("--recipe", default="", help="configuration for all of ours")
    parser.add_argument("--encoder", default="mobilenetv2_ca_100", help="for ours")
    parser.add_argument("--yolo-env", default="~/.cache/segcoord-benchmarks/ultralytics")
    parser.add_argument("--only", nargs="+", default=[""], help="entries with one of these words")
    return parser.parse_args()


def parts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The trainings: (entry, random or imagenet)."""
    chosen = []
    for name, (kind, _) in ENTRIES.items():
        if not any(word in name for word in args.only):
            continue
        starts = ["random"] + ["imagenet"] * (args.weights is not None and kind != "yolo")
        chosen += [(name, start) for start in starts]
    return chosen


def train(name: str, start: str, args: argparse.Namespace, names: list[str]) -> dict:
    """Train, predict and score one entry."""
    kind, network = ENTRIES[name]
    folder = (args.work / slug(name, start)).resolve()
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted part
    folder.mkdir(parents=True)
    weights = args.weights if start == "imagenet" else None
    options = {"recipe": args.recipe, "encoder": args.encoder, "yolo_env": args.yolo_env}
    job = Job(f"{name}, {start}", args.data.resolve(), ROOT / args.config, args.work.resolve(),
              folder, args.minutes, args.threads, args.seed, weights, options)  # fmt: skip
    if kind == "ours":
        trained = rivals_ours.train(job, network)
    elif kind == "smp":
        trained = rivals_smp.train(job, network, len(names))
    else:
        trained = rivals_yolo.train(job, network, names)
    score = folder / "score.json"
    run(job, "score", [sys.executable, "-m", "segcoord", "score", f"--predictions={job.masks}",
                       f"--config={job.config}", f"--data.root={job.data}",
                       f"--json={score}", "--data.pack=off"])  # fmt: skip
    result = json.loads(score.read_text())
    ious = {c["name"]: c["iou"] for c in result["classes"]}
    return {"entry": name, "kind": kind, "start": start, "miou": result["miou"], "classes": ious,
            **trained, "date": date.today().isoformat()}  # fmt: skip


def slug(*words: str) -> str:
    return "-".join(words).lower().replace(" ", "-").replace("+", "plus")


def finished(file: Path, settings: dict) -> dict | None:
    """The content of a finished part; SystemExit if it was made with other settings."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    if content["options"] != settings:
        raise SystemExit(
            f"{file}: made with {content['options']}, now {settings}; use another --work"
        )
    return content


def save(file: Path, content: dict) -> dict:
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(file)
    return content


def main() -> None:
    args = arguments()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: args.threads])
    args.work.mkdir(parents=True, exist_ok=True)
    names = [c.name for c in parse_classes(read_yaml(ROOT / args.config)["data"]["classes"])]
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("work", "only", "yolo_env")}
    todo, results, begin, trained = parts(args), [], time.monotonic(), 0
    for number, (name, start) in enumerate(todo, 1):
        file = args.work / f"{slug(name, start)}.json"
        if (result := finished(file, settings)) is None:
            each = (time.monotonic() - begin) / trained if trained else 60 * args.minutes
            left = each * (len(todo) - number + 1) / 60
            print(f"{number} of {len(todo)}: {name}, {start}; about {left:.0f} minutes left",
                  flush=True)  # fmt: skip
            result = save(file, train(name, start, args, names) | {"options": settings})
            trained += 1
        print(f"{name}, {start}: mIoU {100 * result['miou']:.2f} %", flush=True)
        results.append(result)
    os.sched_setaffinity(0, cores)
    speeds = speed(results, args.work.resolve(), len(cores))
    rivals_table.plot(results, speeds, args.work / "rivals.png")
    machine = f"{platform.processor() or platform.machine()}, {args.threads} threads of a training"
    machine += f", {len(cores)} of OpenVINO"
    tables = f"{rivals_table.table(results, speeds)}\n\n{rivals_table.classes(results)}\n"
    (args.work / "rivals.md").write_text(f"{tables}\n{machine}, {date.today().isoformat()}\n")
    print(f"\n{tables}")


def speed(results: list[dict], work: Path, threads: int) -> dict:
    """Latencies of every entry, from one run."""
    folders = {r["entry"]: str(work / slug(r["entry"], r["start"])) for r in reversed(results)}
    request = {"folders": folders, "threads": threads, "rounds": ROUNDS}
    file = work / "speed.json"
    measured = json.loads(file.read_text()) if file.exists() else None
    if measured is None or measured["options"] != request:  # all in one run
        print("latencies", flush=True)
        job = Job("all", ROOT, ROOT, work, work, 0, threads, 0, None, {})
        content = json.dumps(request | {"out": str(work / "measured.json")})
        (work / "request.json").write_text(content)
        script = str(Path(__file__).with_name("rivals_speed.py"))
        run(job, "speed", [sys.executable, script, str(work / "request.json")])
        rows = json.loads((work / "measured.json").read_text())["rows"]
        measured = save(file, {"rows": rows, "options": request})
    return measured["rows"]


if __name__ == "__main__":
    main()
