"""A Hugging Face Hub on 127.0.0.1: repositories, commits, branches, tokens, a log of all requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, reference: str = "main") -> str:
        """Add a commit that holds exactly `files`; a branch or tag points to it."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.references[reference] = digest
        return digest

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.references.get(revision)


class LoopbackHub:
    """The server; `log` holds (method, path) of each request, `short` are paths served with half their bytes."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.short: set[str] = set()
        self.failing = False
        self.forbidden_owners: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def repository(
        self, name: str, files: Files | None = None, *, private: bool = False, gated: bool = False
    ) -> Repository:
        self.repositories[name] = repository = Repository(private, gated)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return repository

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [path.rpartition("/")[2] for method, path in self.log if method == "GET" and "/resolve/" in path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.failing:
            return self.reply(503, {"error": "down"})
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path) if self.command == method else None
            if match:
                return action(self, body, *match.groups())
        return self.reply(501, {"error": f"no route {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def reply(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.reply(status, {"error": code}, {"X-Error-Code": code, **headers})

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def visible(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.authorized()):
            self.refuse(404 if self.authorized() else 401, "RepoNotFound")
            return None
        return repository

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        repository = self.visible(name)
        if repository is None:
            return
        if repository.gated and not self.authorized():
            return self.refuse(401, "GatedRepo")
        commit = repository.find(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound", **{"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_object_id(path, content)}"'}
        if self.command == "GET" and path in self.hub.short:
            content = content[: len(content) // 2]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
            return self.reply(206, content[int(start[1]) :], headers)
        return self.reply(200, content, headers)

    def information(self, _: bytes, name: str, revision: str | None) -> None:
        repository = self.visible(name)
        if repository is None:
            return
        commit = repository.find(revision or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        names = [{"rfilename": path} for path in repository.commits[commit]]
        return self.reply(200, {"id": name, "sha": commit, "private": repository.private, "siblings": names})

    def create(self, body: bytes) -> None:
        wish = json.loads(body)
        name = f"{wish['organization']}/{wish['name']}"
        if not self.authorized():
            return self.reply(401, {"error": "Invalid username or password."})
        if wish["organization"] in self.hub.forbidden_owners:
            return self.reply(403, {"error": "You don't have the rights to create a model under this namespace"})
        exists = name in self.hub.repositories
        if not exists:
            private = bool(wish.get("private")) or wish.get("visibility") == "private"
            self.hub.repository(name, private=private)
        return self.reply(409 if exists else 200, {"url": f"{self.hub.url}/{name}"})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        if branch in repository.references:
            return self.reply(409, {"error": "exists"})
        repository.references[branch] = repository.references["main"]
        return self.reply(200, {})

    def validate_card(self, body: bytes) -> None:
        good = "license: unheard-of" not in json.loads(body)["content"]
        errors = [] if good else [{"message": "unknown license"}]
        return self.reply(200 if good else 400, {"warnings": [], "errors": errors})

    def upload_mode(self, body: bytes, name: str, revision: str) -> None:
        files = [
            {"path": f["path"], "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        return self.reply(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
            for o in json.loads(body)["objects"]
        ]
        return self.reply(200, {"objects": objects})

    def lfs_put(self, body: bytes, digest: str) -> None:
        self.hub.objects[digest] = body
        return self.reply(200, {})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.references[revision]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        digest = repository.commit(files, revision)
        return self.reply(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{digest}", "commitOid": digest})


def _is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _object_id(path: str, content: bytes) -> str:
    if _is_lfs(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME = r"([^/]+/[^/]+)"
_ROUTES = [
    ("HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"/api/models/{_NAME}(?:/revision/([^/]+))?", _Handler.information),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{_NAME}/branch/([^/]+)", _Handler.branch),
    ("POST", r"/api/validate-yaml", _Handler.validate_card),
    ("POST", rf"/api/models/{_NAME}/preupload/([^/]+)", _Handler.upload_mode),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("POST", rf"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
]
