"""The page of examples/browser in headless Chromium, with onnxruntime-web from npm."""

import contextlib
import functools
import http.server
import shutil
import subprocess
import threading

import pytest
import torch
from PIL import Image
from processes import ROOT
from torch import nn

import tenreo

EXAMPLE = ROOT / "examples" / "browser"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=60000", "--dump-dom",
)  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A handler that does not log requests."""

    def log_message(self, *_):
        """Print nothing."""


@contextlib.contextmanager
def served(folder):
    """Serve a folder on a free port of this machine; yield its address."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None or shutil.which("npm") is None, reason="needs chromium and npm")
def test_a_browser_decodes_a_small_model(tmp_path):
    shutil.copy(EXAMPLE / "index.html", tmp_path)
    modules = EXAMPLE / "node_modules"
    if modules.exists():
        (tmp_path / "node_modules").symlink_to(modules)
    else:
        subprocess.run(["npm", "install", "onnxruntime-web"], cwd=tmp_path, check=True, capture_output=True)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=8), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 128, 3, stride=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1000),
    ).eval()  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(None, tenreo.TargetSize(160_000)))
    draw = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (224, 224, 3), generator=draw, dtype=torch.uint8)
    Image.fromarray(values.numpy()).save(tmp_path / "photo.jpg", format="PNG")  # without loss, whatever the name
    images = (values.permute(2, 0, 1)[None].float() - 127) / 128
    sizes = [
        tenreo.export(net, tmp_path / f"{name}.onnx", inputs=torch.cat([images, images]), small=name == "small").bytes
        for name in ("small", "dense")
    ]
    with served(tmp_path) as address:
        command = ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
        page = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    rows = [row.split("</td>") for row in page.split("<tbody")[1].split("</tbody>")[0].split("<tr>")[1:]]
    found = [[cell.rpartition(">")[2] for cell in row] for row in rows]
    assert [row[1] for row in found] == [f"{size:,}" for size in sizes] and sizes[0] < sizes[1] / 3
    assert {int(row[4]) for row in found} == {int(net(images).argmax())}
