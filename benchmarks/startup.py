"""Time of a command from start to end, for one image, against the imports of a script with smp.

Each variant is a process; the variants alternate in every round. The last table has the slowest
imports of `segcoord predict`, from `python -X importtime`.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

SMP = "import torch, segmentation_models_pytorch, cv2"
BASELINE = "python: import torch, smp, cv2"


def variants(args: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """Command lines by name."""
    segcoord = [sys.executable, "-m", "segcoord"]
    predict = [*segcoord, "predict", f"--out={out}", args.image]
    found = {
        BASELINE: [sys.executable, "-c", SMP],
        "segcoord --help": [*segcoord, "--help"],
        "segcoord predict": [*predict, f"--checkpoint={args.checkpoint}"],
    }
    if args.exported:
        found["segcoord predict, exported model"] = [*predict, f"--checkpoint={args.exported}"]
    return found


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def slowest_imports(command: list[str], count: int = 12) -> list[tuple[float, str]]:
    """(seconds with everything it imports, module) of the slowest packages."""
    command = [command[0], "-X", "importtime", *command[1:]]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = re.findall(r"import time: +\d+ \| +(\d+) \| ( *)(\S+)", process.stderr)
    packages = [(int(us) / 1e6, name) for us, _, name in lines if "." not in name]
    return sorted(packages, reverse=True)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--exported", help="folder that segcoord export wrote")
    parser.add_argument("--image", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        commands = variants(args, Path(scratch))
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(args.rounds + 1):  # the first reads the files into the page cache
            for name, command in commands.items():
                elapsed = seconds(command)
                if number:
                    times[name].append(elapsed)
            print(f"round {number} of {args.rounds}", flush=True)
        imports = slowest_imports(commands["segcoord predict"])
    rows = []
    print(f"\n{'':36}{'seconds':>8}{'ratio':>8}")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times[BASELINE]))
        rows.append({"variant": name, "seconds": statistics.median(values), "ratio": ratio})
        print(f"{name:36}{rows[-1]['seconds']:8.2f}{ratio:8.2f}")
    print("\nslowest imports of segcoord predict, with what they import, under -X importtime")
    for elapsed, name in imports:
        print(f"{name:36}{elapsed:8.2f}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
               "date": date.today().isoformat()}  # fmt: skip
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
