"""`tenreo demo`: options and checks."""

import os
from dataclasses import dataclass
from pathlib import Path

from tenreo.cli import checks
from tenreo.cli.exits import usage
from tenreo.cli.shared_options import MOST_SEED, FileOutput
from tenreo.data.layouts import DIGITS
from tenreo.errors import TenreoError
from tenreo.files.atomic import check_writable
from tenreo.options import option


@dataclass(frozen=True)
class DemoOutput(FileOutput):
    """What is written and printed."""

    out: Path = option(Path("tenreo-demo"), "Output folder.", short="-o")
    seed: int = option(0, "Seed of the random weights and of the order of the images.", least=0, ceiling=MOST_SEED)
    force: bool = option(False, "Write into a folder that is not empty.")


def demo(output: DemoOutput) -> None:
    """Train, compress and fine-tune a classifier of handwritten digits.

    The model is MobileNet-V2, trained on 1,437 images; fine-tuning takes one epoch.

    Example: tenreo demo
    """
    check(output)


def check(output: DemoOutput) -> None:
    """Raise WrongUsageError if anything is wrong with the output folder, or scikit-learn is not installed."""
    with usage():
        checks.check_data(DIGITS, [])
        _check_folder(output.out, output.force)


def _check_folder(path: Path, force: bool) -> None:
    """Raise TenreoError unless a folder can be created, or is empty (any if `force` is set) and can be written to."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    if not missing and (not path.is_dir() or (any(path.iterdir()) and not force)):
        raise TenreoError(f"{path}: exists already and is not empty; use --force or another --out")
    check_writable(missing[-1] if missing else path / "x")
