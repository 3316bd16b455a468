"""A hub on this machine: repositories are folders, served as huggingface_hub 2.4 asks for them."""

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from local_server import Quiet, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


class Hub:
    """What it serves, below `root`: models/OWNER/NAME and datasets/OWNER/NAME.

    `got` has the path of every file that was asked for. `breaks` are names of files of which each
    is cut off once, after so many bytes. `gated` are names of which no file is given; `refused` has
    the statuses with which names are answered whatever is asked, the last one for ever.
    """

    def __init__(self, root):
        self.root = root
        self.got = []
        self.breaks = {}
        self.gated = set()
        self.refused = {}
        self.url = ""

    def files(self, kind, name):
        folder = self.root / kind / name
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


@contextmanager
def hub(root):
    """Inside, the yielded hub answers at its `url`."""
    served = Hub(root)
    with serving(_Handler, hub=served) as served.url:
        yield served


class _Handler(Quiet, BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        if found := _API.fullmatch(path):
            kind, name, rest = found.groups()
            self._of_api(kind, name, rest or "")
        elif found := _FILE.fullmatch(path):
            dataset, name, _, file = found.groups()
            self._file("datasets" if dataset else "models", name, file)
        else:
            self._missing("EntryNotFound")

    def _refuses(self, name):
        statuses = self.hub.refused.get(name, [])
        if not statuses:
            return False
        self._missing("Refused", statuses[0])
        del statuses[: len(statuses) > 1]
        return True

    def _of_api(self, kind, name, rest):
        if self._refuses(name):
            return None
        files = self.hub.files(kind, name)
        if not files:
            return self._missing("RepoNotFound")
        entries = [_entry(path, content) for path, content in files.items()]
        what = rest.partition("/")[0]
        if what in ("", "revision"):
            siblings = [{"rfilename": one["path"], "size": one["size"]} for one in entries]
            return self._json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})
        if what == "tree":
            folder = "/".join(rest.split("/")[2:])
            return self._json([one for one in entries if one["path"].startswith(folder)])
        if what == "paths-info":
            wanted = json.loads(self.body)["paths"]
            return self._json([one for one in entries if one["path"] in wanted])
        return self._missing("EntryNotFound")

    def _file(self, kind, name, file):
        if self._refuses(name):
            return None
        if name in self.hub.gated:
            return self._missing("GatedRepo", 403)
        content = self.hub.files(kind, name).get(file)
        if content is None:
            return self._missing("EntryNotFound")
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_digest(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.hub.got.append((file, start))
            cut = self.hub.breaks.pop(file, None)
            self.wfile.write(part[:cut])
            if cut is not None:
                self.close_connection = True
        return None

    def _missing(self, why, status=404):
        self.send_response(status)
        self.send_header("X-Error-Code", why)
        self.send_header("X-Error-Message", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path, content):
    return {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}


def _digest(content):
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
