"""Draw docs/research/finetuning.png: fine-tuning with and without distillation and calibration.

OMP_NUM_THREADS=2 .venv/bin/python docs/research/finetuning.py DENSE.safetensors
DENSE is FOLDER/mobilenet_v2.safetensors after `.venv/bin/python benchmarks/allocation.py FOLDER`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tenreo.cli.terminal.pictures import plot_logs

METHODS = {
    "plain": [],
    "distilled": ["--distill"],
    "calibrated": ["--calibrate", "8"],
    "both": ["--distill", "--calibrate", "8"],
}


def tenreo(*arguments: object) -> dict:
    command = [sys.executable, "-m", "tenreo", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(dense: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = folder / "small.safetensors"
        tenreo("compress", "-a", "mobilenet_v2", "--weights", dense, "-g", 8, "-r", 8, "--progressive",
               "--refine", 0, "--no-match-statistics", "-o", small)  # fmt: skip
        for which in (dense, small):
            print(which.name, round(tenreo("evaluate", which, "--data", "digits")["top1"], 2))
        logs = {}
        for lr in (0.01, 0.0001):
            for method, options in METHODS.items():
                out = folder / f"{method}-{lr}.safetensors"
                teacher = ["--teacher", dense] if "--distill" in options else []
                done = tenreo("finetune", small, "--data", "digits", "--epochs", 3, "--lr", lr, *options, *teacher,
                              "-o", out)  # fmt: skip
                calibrated = done["calibrated"] and round(done["calibrated"]["top1"], 2)
                print(lr, method, calibrated, [round(e["top1"], 2) for e in done["epochs"]])
                if lr == 0.01:
                    logs[method] = out.with_suffix(".csv")
        plot_logs(logs, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
