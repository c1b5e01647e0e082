"""Atomic replacement: which paths are written, which are refused, and which temporary files are removed."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import tenreo
from tenreo.errors import TenreoError
from tenreo.files.atomic import atomic_write, check_writable

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may create device nodes and mount file systems")


def write(path, text="after"):
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def hidden_files(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket has at most about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


def device(path):
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def dangling_link(path):
    path.symlink_to("nowhere")


def link_to_itself(path):
    path.symlink_to(path.name)


def link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize("make", [
    folder, pipe, unix_socket, pytest.param(device, marks=root), dangling_link, link_to_itself, link_to_a_pipe,
])  # fmt: skip
def test_only_regular_files_are_replaced(tmp_path, make):
    path = tmp_path / "m.safetensors"
    make(path)
    before = path.lstat()
    for attempt in (check_writable, write, lambda p: tenreo.save(torch.nn.Linear(3, 3), p)):
        with pytest.raises(TenreoError, match=r"m\.safetensors: cannot be written: it is a "):
            attempt(path)
    after = path.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino) and not hidden_files(tmp_path)


def test_the_target_of_a_link_is_replaced_and_the_link_is_kept(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a", tmp_path / "b"
    target.write_text("before")
    link.symlink_to(tmp_path / "c")
    (tmp_path / "c").symlink_to("real/a")
    check_writable(link)
    write(link)
    assert link.is_symlink() and not target.is_symlink() and target.read_text() == "after"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "real"] and len(os.listdir(target.parent)) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/x", "there is no folder"), ("a\0b", "null"), ("x" * 300, "too long"), ("file/x", "Not a directory"),
        (".", "a folder"),
    ],
)  # fmt: skip
def test_paths_that_cannot_be_written_are_refused(tmp_path, name, why):
    (tmp_path / "file").write_text("")
    for attempt in (check_writable, write):
        with pytest.raises(TenreoError, match=rf"cannot be written: .*{why}"):
            attempt(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_files_with_long_names_are_written(tmp_path):
    path = tmp_path / ("é" * 120 + "x" * 15)
    check_writable(path)
    write(path)
    assert path.read_text() == "after" and not hidden_files(tmp_path)


def test_read_only_folders_are_refused(tmp_path):
    """The check runs in a process of another user, because permissions do not restrict root."""
    tmp_path.chmod(0o555)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tenreo.files.atomic import check_writable\n"
        "from tenreo.errors import TenreoError\n"
        "if os.geteuid() == 0: os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "try: check_writable(Path('x'))\nexcept TenreoError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "x: cannot be written: Permission denied; choose another path\n", done.stderr


@root
def test_read_only_file_systems_are_refused(tmp_path):
    check = "from pathlib import Path; from tenreo.files.atomic import check_writable as c; c(Path('x'))"
    code = f'mount -t tmpfs -o ro none {tmp_path} && cd {tmp_path} && exec {sys.executable} -c "{check}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", code], capture_output=True, text=True)
    if "x: cannot be written" not in done.stderr:
        pytest.skip("this system does not allow mounting")
    assert "x: cannot be written: Read-only file system; choose another path" in done.stderr


HOLD = """
import sys
from pathlib import Path
from tenreo.files.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_temporary_files_of_killed_processes_are_removed_and_those_of_running_ones_are_kept(tmp_path):
    path = tmp_path / "m.safetensors"
    unrelated = [".m.safetensors.settings", ".n.safetensors.abcdefgh.unfinished"]  # a user's file; another target's
    for name in unrelated:
        (tmp_path / name).write_text("")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, running = (subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) for _ in range(2))
    for process in (killed, running):
        assert process.stdout.readline() == "ready\n"
    assert len(hidden_files(tmp_path)) == 4
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    write(path)
    assert len(hidden_files(tmp_path)) == 3 and path.read_text() == "after"
    running.communicate()
    assert running.returncode == 0 and path.read_text() == "half"
    assert sorted(hidden_files(tmp_path)) == unrelated


def test_endings_of_other_formats_are_refused(tmp_path):
    for name in ("x.pth", "x.PT", "x.onnx", "x.json"):
        with pytest.raises(TenreoError, match=rf"{name}: the name .* the safetensors format; use x\.safetensors"):
            tenreo.save(torch.nn.Linear(3, 3), tmp_path / name)
    tenreo.save(torch.nn.Linear(3, 3), tmp_path / "model.v1.2")
    assert os.listdir(tmp_path) == ["model.v1.2"]


def failing(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(("module", "name"), [
    (os, "fsync"), (os, "replace"), (os, "fstat"), (Path, "chmod"), (tempfile, "mkstemp"), (os, "umask"),
])  # fmt: skip
def test_errors_of_the_system_are_one_line_at_every_stage_and_leave_no_file(tmp_path, monkeypatch, module, name):
    path = tmp_path / "m"
    path.write_text("before")
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing)
        with pytest.raises(TenreoError, match=r"m: cannot be written: Input/output error; choose another path"):
            write(path)
        if name in ("fstat", "mkstemp"):
            with pytest.raises(TenreoError, match=r"m: cannot be written: Input/output error; choose another path"):
                check_writable(path)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["close", "unlink"])
def test_errors_of_the_last_close_and_unlink_do_not_escape(tmp_path, monkeypatch, name):
    path, real, closed = tmp_path / "m", os.close, []

    def close(handle):
        real(handle)
        closed.append(handle)
        failing()

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "close", close) if name == "close" else (Path, "unlink", failing)))
        write(path)
        with pytest.raises(ZeroDivisionError), atomic_write(path):
            raise ZeroDivisionError
        if name == "close":
            check_writable(path)
    assert path.read_text() == "after"


@pytest.mark.parametrize("size", [0, 7, 8, 100, 4096, 20_000])
def test_a_full_disk_is_one_line_wherever_it_becomes_full(tmp_path, disk_full_after, size):
    path = tmp_path / "m.safetensors"
    with disk_full_after(size), pytest.raises(TenreoError, match=r"m\.safetensors: cannot be written: File too large"):
        tenreo.save(torch.nn.Linear(100, 100), path)
    assert not list(tmp_path.iterdir())
