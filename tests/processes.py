"""Run the command line and tests/tiny_run.py in other processes, or the command line in this process."""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from typer.testing import CliRunner

from tenreo.cli.app import app

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parent.parent
TINY_RUN = Path(__file__).parent / "tiny_run.py"
# Name of each command, and of the function in its module of `tenreo.cli.run` that does the work.
COMMANDS = {
    "compress": "compress_and_save", "decompress": "decompress_files", "verify": "verify_files",
    "evaluate": "evaluate_files", "finetune": "finetune_file",
    "inspect": "inspect_file", "analyze": "analyze_model", "export": "export_file", "card": "write_card",
    "push": "push_files", "pull": "pull_files", "sweep": "sweep_recipes",
    "demo": "run_demo",
}  # fmt: skip
# New processes are forked from a server that has imported torch and loaded the compiled code of the codec, which saves
# seconds of processor time for each.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torchvision", *(f"tenreo.cli.run.{name}" for name in COMMANDS), "loaded_codec"])


@cache
def start_server():
    """Start the server once; without the variable, it finds neither the package's source nor tests/loaded_codec.py."""
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


class Forked:
    """A new process that runs a program, with methods of subprocess.Popen; its output goes to files.

    Args:
        program: name of a module, or path of a Python file.
        arguments: command line of the program.
        cwd: working folder; by default the current one.
        env: environment variables that are added to the current ones.
        stdout: path that receives the standard output instead of a file.
    """

    def __init__(self, program, *arguments, cwd=None, env=None, stdout=None):
        self._outputs = [tempfile.NamedTemporaryFile(mode="r") for _ in range(2)]  # noqa: SIM115
        names = [stdout or self._outputs[0].name, self._outputs[1].name]
        args = (program, list(map(str, arguments)), names, str(cwd or os.getcwd()), {**os.environ, **(env or {})})
        start_server()
        self._process = FORKS.Process(target=_run_program, args=args)
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout):
        self._process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s: {self.output()}"
        return self.returncode

    def output(self):
        """Return what the process has written to stdout and stderr."""
        return tuple(Path(file.name).read_text() for file in self._outputs)

    def communicate(self, timeout=120):
        self.wait(timeout)
        output = self.output()
        for file in self._outputs:
            file.close()
        return output


def _run_program(program, arguments, outputs, cwd, env):
    for number, name in enumerate(outputs, start=1):
        descriptor = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # Otherwise the processes that load images would come from a new server, which first imports torch.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore it
    warnings.filterwarnings("error", category=UserWarning, module="tenreo")
    sys.path.insert(0, cwd)
    sys.argv = [program, *arguments]
    if Path(program).suffix == ".py":
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def start_tenreo(*arguments, **options):
    """Start the command line in a new process."""
    return Forked("tenreo", *arguments, **options)


def tenreo(*arguments, env=None, **options):
    """Run the command line in a new process, and return the completed process."""
    process = start_tenreo(*arguments, env={"COLUMNS": "120", **(env or {})}, **options)
    out, err = process.communicate(timeout=280)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def good(*arguments, **options):
    """Run a command that succeeds in a new process, and return the completed process."""
    done = tenreo(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(*arguments, code, **options):
    """Run a command that fails with an exit code in a new process, and return its stderr."""
    done = tenreo(*arguments, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def here(*arguments, code=0, columns=120):
    """Run a command in this process, which saves importing torch; the result has .stdout and .stderr."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": str(columns), "TERMINAL_WIDTH": None})
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def refused(*arguments, code=2):
    """Run a command that fails in this process, and return its stderr."""
    done = here(*arguments, code=code)
    assert not done.stdout
    return done.stderr


def seeded():
    """Return a random generator for moments; its seed is printed, and KILL_SEED=... repeats it."""
    seed = os.environ.get("KILL_SEED", str(time.time_ns()))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


def start_python(code):
    """Start Python code that first prints "ready" in a new process."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def start_tiny_run(*arguments, **options):
    """Start tests/tiny_run.py in a new process."""
    return Forked(str(TINY_RUN), *arguments, **options)


def two_processes(start, *arguments):
    """Start a program in two processes, with the environment of torchrun, and return them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": "2"}
    return [start(*arguments, env={**address, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]


def tiny_run(*arguments):
    """Run tests/tiny_run.py in a new process, and return its stdout."""
    process = start_tiny_run(*arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out
