"""A W&B server on this machine, as far as the client of wandb 0.31 asks it for anything.

Like W&B's own, it takes the lines of a run's history at the place that the client gives, and says
how many it has: the client goes on from there.
"""

import gzip
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from local_server import Quiet, serving

KEPT = ("config", "displayName", "groupName", "jobType", "tags")


class Server:
    """`runs` has what it was told of each run by its id.

    `refuses` is the status of all answers, `refuses_rows` that of those to rows of a history.
    """

    def __init__(self):
        self.runs = {}
        self.refuses = self.refuses_rows = None
        self.url = ""

    def history(self, run):
        return [json.loads(line) for line in self._lines(run, "wandb-history.jsonl")]

    def summary(self, run):
        return json.loads(self._lines(run, "wandb-summary.json")[-1])

    def config(self, run):
        found = json.loads(self.runs[run]["config"])
        return {key: one["value"] for key, one in found.items()}

    def _lines(self, run, name):
        return self.runs[run]["lines"].get(name, [])

    def take(self, run, files):
        for name, chunk in files.items():
            lines, at = self.runs[run]["lines"].setdefault(name, []), chunk["offset"]
            lines[at : at + len(chunk["content"])] = chunk["content"]

    def upsert(self, told):
        run = self.runs.setdefault(told["name"], {"config": "{}", "lines": {}, "files": set()})
        run |= {key: told[key] for key in KEPT if told.get(key) is not None}
        bucket = {**self._bucket(told["name"]), "project": _project(told)}
        return {"bucket": bucket, "inserted": True}

    def resume(self, told):
        known = self._bucket(told["name"]) if told["name"] in self.runs else None
        return {**_project(told), "bucket": known}

    def _bucket(self, name):
        run, history = self.runs[name], self._lines(name, "wandb-history.jsonl")
        return {
            **{key: run.get(key) for key in ("config", "displayName", "tags")},
            **{"id": name, "name": name, "wandbConfig": '{"t": 1}'},
            "summaryMetrics": (self._lines(name, "wandb-summary.json") or ["{}"])[-1],
            **{"historyLineCount": len(history), "historyTail": json.dumps(history[-1:])},
            **{"eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"},
        }

    def upload(self, told):
        self.runs[told["run"]]["files"] |= set(told["files"])
        urls = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in told["files"]]
        return {"runID": told["run"], "uploadHeaders": [], "files": urls}


def _project(told):
    return {"id": "p", "name": told["project"], "entity": {"id": "e", "name": "me"}}


@contextmanager
def wandb_server():
    """Inside, the yielded server answers at its `url`."""
    served = Server()
    with serving(_Handler, state=served) as served.url:
        yield served


class _Handler(Quiet, BaseHTTPRequestHandler):
    def do_PUT(self):
        self._body()
        self._json({})

    def do_POST(self):
        body, state = self._body(), self.state
        if state.refuses is not None:
            return self._json({"errors": [{"message": "refused"}]}, state.refuses)
        if self.path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            return self._json(self._answer(name, asked.get("variables") or {}))
        if found := re.fullmatch(r"/files/.*/([^/]+)/file_stream", self.path):
            if state.refuses_rows is not None:
                return self._json({"error": "refused"}, state.refuses_rows)
            state.take(found[1], json.loads(body).get("files") or {})
        return self._json({})

    def _answer(self, name, told):
        if name == "Viewer":
            viewer = {"id": "u", "entity": "me", "username": "me", "email": "e", "admin": False}
            return {"data": {"viewer": {**viewer, "flags": "{}", "teams": {"edges": []}}}}
        if name == "UpsertBucket":
            return {"data": {"upsertBucket": self.state.upsert(told)}}
        if name == "RunResumeStatus":
            return {"data": {"model": self.state.resume(told)}}
        if name == "CreateRunFiles":
            return {"data": {"createRunFiles": self.state.upload(told)}}
        return {"errors": [{"message": f"unknown: {name}"}]}

    def _body(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
