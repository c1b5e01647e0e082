"""A server on this machine that speaks the calls of the Hugging Face hub that an upload and a download need."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories as dictionaries: `repositories["user/model"]["README.md"]` is the content of a file.

    `calls` lists the method and path of every request. `extra` are names that a listing contains without a file.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.large, self.calls, self.extra = {}, {}, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        hub, path = self.server, unquote(self.path.partition("?")[0])
        hub.calls.append((self.command, path))
        body = self._body()
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            hub.repositories.setdefault(name, {})
            return self._json({"url": f"{hub.address}/{name}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith("/large/"):
            hub.large[path.rpartition("/")[2]] = body
            return self._send(200, b"")
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._lfs(json.loads(body))
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
            name, rest = match[1], match[2] or ""
            if name not in hub.repositories:
                return self._missing("RepoNotFound")
            return self._repository(name, rest, body)
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path):
            files = hub.repositories.get(match[1])
            if files is None:
                return self._missing("RepoNotFound")
            content = files.get(match[2])
            return self._missing("EntryNotFound") if content is None else self._file(content)
        return self._missing("")

    def _body(self):
        """Return the body of a request, which is sent whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _repository(self, name, rest, body):
        files = self.server.repositories[name]
        if rest.startswith("/preupload/"):
            sizes = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None} for f in sizes
            ]  # fmt: skip
            return self._json({"files": modes})
        if rest.startswith("/commit/"):
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.large[value["oid"]]
            return self._json({"commitUrl": f"{self.server.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        if rest.startswith("/tree/"):
            tree = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            tree += [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in self.server.extra]
            return self._json(tree)
        if rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": n} for n in [*files, *self.server.extra]]
            return self._json({"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings,
                               "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
        return self._missing("RevisionNotFound")

    def _lfs(self, wanted):
        objects = [
            {"oid": o["oid"], "size": o["size"],
             "actions": {"upload": {"href": f"{self.server.address}/large/{o['oid']}", "header": {}}}}
            for o in wanted["objects"]
        ]  # fmt: skip
        self._json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def _file(self, content):
        tag = hashlib.sha256(content).hexdigest()
        self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def _json(self, value, kind="application/json"):
        self._send(200, json.dumps(value).encode(), {"Content-Type": kind})

    def _missing(self, code):
        status = 401 if code == "RepoNotFound" else 404
        self._send(status, json.dumps({"error": "not found"}).encode(), {"X-Error-Code": code})

    def _send(self, status, body, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub():
    """A hub that answers while the context lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
