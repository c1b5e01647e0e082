"""Serve a compressed file at the speed of the dense model: python examples/serving.py

`tenreo.load` returns a model that computes its weights from the file's coefficients. Before serving, `tenreo.expand_`
replaces every compressed layer by a plain dense one, once; afterwards nothing of tenreo runs. The file remains small.
"""

import http.server
import json
import threading
import urllib.request

import torch
from torch import nn

import tenreo


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).eval()


small = build()
tenreo.compress_(small, tenreo.Recipe(groups=4, rate=tenreo.Uniform(4.0)))
tenreo.save(small, "served.safetensors")

model = tenreo.expand_(tenreo.load("served.safetensors", build()))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a POST request with 64 numbers by the ten outputs of the model."""

    def do_POST(self) -> None:
        values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with torch.inference_mode():
            outputs = model(torch.tensor([values]))[0].tolist()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(outputs).encode())

    def log_message(self, *arguments: object) -> None:
        """Print nothing for a request."""


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}", json.dumps([0.1] * 64).encode())
    with urllib.request.urlopen(request) as answer:
        print(f"outputs: {[round(value, 3) for value in json.load(answer)]}")
    server.shutdown()
