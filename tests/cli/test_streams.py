"""Standard output and standard error that are full or closed, and control characters in arguments."""

import json
import subprocess
import sys

import pytest
from processes import DATA, ROOT, bad, good

FILE = DATA / "int8.safetensors"
COMMAND = f"{sys.executable} -m tenreo"


def shell(line, **options):
    """Run a command line in bash."""
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, **options)


@pytest.mark.parametrize("typed", [f"inspect {FILE}", f"inspect {FILE} --json", "--help", "--version",
                                   "compress --help", "compress -a resnet18 -g 4 -r 2 --dry-run --json"])  # fmt: skip
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_1(typed):
    assert bad(*typed.split(), code=1, stdout="/dev/full") == (
        "error: standard output cannot be written: No space left on device; redirect it to another place\n"
    )


def test_a_closed_stdout_is_reported_before_the_work():
    for typed in (f"inspect {FILE}", "--version", "compress -a resnet18 --weights none -g 4 -r 2 -o /tmp/never.st"):
        done = shell(f"{COMMAND} {typed} >&-")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "standard output is closed" in done.stderr


@pytest.mark.slow
def test_without_stderr_results_and_exit_codes_are_the_same():
    whole = good("inspect", FILE, "--json", cwd=ROOT).stdout
    for stream in ("2>&-", "2>/dev/full", "<&-"):
        done = shell(f"{COMMAND} inspect {FILE} --json {stream}")
        assert (done.returncode, json.loads(done.stdout)) == (0, json.loads(whole))
        assert shell(f"{COMMAND} inspect nothing {stream}").returncode == 2
    assert shell(f"{COMMAND} inspect nothing >&- 2>&-").returncode == 1


def test_a_closed_pipe_is_no_error():
    done = shell(f"set -o pipefail; {COMMAND} inspect {FILE} | true")
    assert done.stderr == "" and done.returncode in (0, 1)


def test_every_character_can_be_printed(tmp_path):
    path = tmp_path / "größe 画像.safetensors"
    path.write_bytes(FILE.read_bytes())
    done = shell(f"{COMMAND} inspect '{path}'", env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and "gr\\xf6\\xdfe" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "typed",
    ["compress -g $X", "$X", "compress --$X", "--$X", "inspect $X", "compress -a $X -g 4 -r 2",
     "compress --config $X", "compress -g 4 -r 2 --importance $X", "inspect x $X"],
)  # fmt: skip
def test_control_characters_in_arguments_are_escaped(typed):
    hostile = "a\x1b[31m\x1b]0;title\x07\nerror: forged\r\u202e"
    error = bad(*(word.replace("$X", hostile) for word in typed.split()), code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and error[:-1].isprintable()
