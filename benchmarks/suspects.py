"""How many planted faults `segcoord data suspects` finds: precision and recall by kind of fault.

    python benchmarks/suspects.py --root data/camvid --checkpoint FILE [--json FILE]
    python benchmarks/suspects.py --root data/camvid --checkpoint FILE --split val --per-kind 10
    python benchmarks/suspects.py --root data/camvid --write DIR   # the faulty dataset, to train on

Plants faults of five kinds, one in an image, in a split of a dataset with layout voc: in a copy of
the masks beside links to the photographs. Prints the precision among as many images as half of the
faults, and the recall among as many as the faults. Ranks the images by our score, by the
soft minimum of Lad and Mueller (arXiv:2307.05080; cleanlab's default, temperature 0.1), and by the
share of pixels whose prediction differs from the label.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
from suspects_faults import KINDS, write_faulty

from segcoord.config.loading import read_yaml
from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.split import Split
from segcoord.evaluation.evaluate import read_pairs
from segcoord.evaluation.suspects.ranking import SuspectRanking, probability_of
from segcoord.inference.load import load
from segcoord.inference.predict import predict_probabilities
from segcoord.utils.console import progress_counter

TEMPERATURE = 0.1  # of the soft minimum
CONFIG = Path(__file__).parents[1] / "configs" / "camvid_light.yaml"


def soft_minimum(support: np.ndarray) -> float:
    """Of the probabilities (n,) of the given labels: their mean, weighted by softmax((1 - p)/t)."""
    weight = np.exp((1 - support.astype(np.float64)) / TEMPERATURE)
    return float((weight * support).sum() / weight.sum())


def rank(checkpoint: str, split: Split) -> tuple[dict[str, list[int]], dict[int, tuple[int, int]]]:
    """The samples in the order of each method, and the center of our worst region in each."""
    model = load(checkpoint)
    ranking, soft, share = SuspectRanking(model.labels.names), {}, {}
    with progress_counter("predict", len(split)) as update:
        for index, (_, (image, mask)) in enumerate(read_pairs(split, 0)):
            labels = mask.numpy()
            classes, probabilities = predict_probabilities(model, image.numpy())
            ranking.add(index, labels, classes, probabilities)
            labeled = labels < len(model.labels)
            support = probability_of(probabilities, np.where(labeled, labels, 0))[labeled]
            soft[index] = soft_minimum(support)
            share[index] = -(classes != labels)[labeled].mean()
            update(index + 1)
    suspects = ranking.ranked()
    orders = {"segcoord data suspects": [suspect.index for suspect in suspects]}
    orders["soft minimum (cleanlab)"] = sorted(soft, key=soft.get)
    orders["share of differing pixels"] = sorted(share, key=share.get)
    return orders, {suspect.index: suspect.worst.region.center for suspect in suspects}


def table(
    orders: dict[str, list[int]],
    centers: dict[int, tuple[int, int]],
    faults: dict[int, tuple[str, np.ndarray]],
) -> list[dict]:
    """The figures of each method; those of ours also count where the worst region is."""
    hits = {
        index for index, (x, y) in centers.items() if index in faults and faults[index][1][y, x]
    }
    variants = [(name, order, {*faults}) for name, order in orders.items()]
    variants.insert(1, ("the same, worst region in the fault", [*centers], hits))
    rows, n = [], len(faults)
    print(f"| ranked by | precision at {n // 2} | recall at {n} | {' | '.join(KINDS)} |")
    print("| --- " * (3 + len(KINDS)) + "|")
    for name, order, wanted in variants:
        first, listed = ({*order[:count]} & wanted for count in (n // 2, n))
        found = [faults[index][0] for index in listed]
        recalls = {kind: found.count(kind) * len(KINDS) / n for kind in KINDS}
        values = {f"precision at {n // 2}": len(first) / (n // 2)}
        values |= {f"recall at {n}": len(listed) / n, **recalls}
        rows += [{"case": c, "variant": name, "value": v, "unit": ""} for c, v in values.items()]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values.values()) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="lists the classes")
    parser.add_argument("--checkpoint")
    parser.add_argument("--split", default="train")
    parser.add_argument("--per-kind", type=int, default=40)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    classes = read_yaml(args.config)["data"]["classes"]
    original = find_split(DataConfig("voc", args.root, classes), args.split)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.write or Path(temporary)
        faults = write_faulty(original, folder, args.per_kind, args.seed)
        print(f"{len(faults)} faults in {len(original)} images; median share of changed pixels:")
        for kind in KINDS:
            shares = [changed.mean() for name, changed in faults.values() if name == kind]
            print(f"  {kind:22} {np.median(shares):.1%}")
        if args.checkpoint is None:
            return
        split = find_split(DataConfig("voc", str(folder), classes), args.split)
        orders, centers = rank(args.checkpoint, split)
    rows = table(orders, centers, faults)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine |= {"torch": torch.__version__, "date": date.today().isoformat()}
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
