"""Check and measure tenreo on a GPU: tests, agreement with the CPU, compression, evaluation, training and profiles.

Start it with benchmarks/first_contact.sh. Every part is a process with a time limit of its own, since an error of CUDA
ends the process in which it occurs. A part writes each figure as soon as it is measured, so a part that fails or takes
too long keeps the earlier ones, and the next part follows. Three files result: first_contact.json, first_contact.md
(tables for docs/measurements.md) and first_contact.log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMITS = {  # seconds of each part
    "machine": 30, "tests": 120, "agreement": 45, "compress": 90, "evaluation": 60, "finetune": 75, "steps": 120,
    "profile": 60, "compiled": 90,
}  # fmt: skip
TOTAL = 570  # seconds of all parts together; a part that would end later gets the seconds that are left
QUICK = 8  # with --quick, all limits are this many times as long, since it is for slow and busy machines


def main() -> None:
    """Run the parts one after another, and write what they found after each of them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(LIMITS)}")
    options.add_argument("--device", default="cuda")
    options.add_argument("--quick", action="store_true", help="small models, images and batches, to try the script")
    options.add_argument("--out", type=Path, default=Path("first_contact"), help="folder of the results")
    asked = options.parse_args()
    if unknown := set(asked.parts) - set(LIMITS):
        options.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(LIMITS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running part is stopped as well
    asked.out.mkdir(parents=True, exist_ok=True)
    figures, log = asked.out / "figures.jsonl", asked.out / "first_contact.log"
    figures.write_text("")
    log.write_text("")
    results: dict[str, list[dict[str, Any]]] = {"parts": [], "figures": []}
    scale = QUICK if asked.quick else 1
    end = time.monotonic() + scale * TOTAL
    for name in asked.parts or LIMITS:
        arguments = [name, asked.device, str(figures), *["--quick"] * asked.quick]
        results["parts"].append(run(arguments, min(scale * LIMITS[name], end - time.monotonic()), log))
        results["figures"] = [json.loads(line) for line in figures.read_text().splitlines()]
        (asked.out / "first_contact.json").write_text(json.dumps(results, indent=1))
        (asked.out / "first_contact.md").write_text(tables(results))
        print("{part}: {outcome}, {seconds} s".format(**results["parts"][-1]), flush=True)
    figures.unlink()
    print(tables(results))


def run(arguments: list[str], limit: float, log: Path) -> dict[str, Any]:
    """Run one part and return its name, its outcome in words, and its seconds; its output is added to the log."""
    start, outcome = time.monotonic(), "passed"
    if limit < 5:
        return {"part": arguments[0], "outcome": "left out, no time was left", "seconds": 0}
    command = [sys.executable, str(Path(__file__).with_name("first_contact_parts.py")), *arguments]
    with log.open("a") as file:
        file.write(f"== {arguments[0]}\n")
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if process.wait(limit):
                outcome = "failed"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
        finally:
            stop(process)
    if outcome == "failed":
        outcome = f"failed: {log.read_text(errors='replace').rstrip().splitlines()[-1][:200]}"
    return {"part": arguments[0], "outcome": outcome, "seconds": round(time.monotonic() - start, 1)}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, which would otherwise go on using the GPU."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tables(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results as Markdown: a table of the parts, and a table of the figures of each."""
    lines = ["| part | outcome | seconds |", "|:--|:--|--:|"]
    lines += ["| {part} | {outcome} | {seconds} |".format(**part) for part in results["parts"]]
    for part in results["parts"]:
        own = [figure for figure in results["figures"] if figure["part"] == part["part"]]
        if own:
            lines += ["", f"| {part['part']} | measured |", "|:--|--:|"]
            lines += [f"| {each['quantity']} | {each['value']} {each['unit']}".rstrip() + " |" for each in own]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
