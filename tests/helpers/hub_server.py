"""A stand-in for the Hugging Face Hub on loopback: what huggingface_hub calls to create, upload and download.

Files that are weights go through the LFS batch, others come with the commit, as on the Hub. Private repositories and
all writing need the token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

TOKEN = "hf_tokenThatMustNotBePrinted"


class Repository:
    """Commits by their id, each with its files, and the branches that name them."""

    def __init__(self, private: bool):
        self.private = private
        first = hashlib.sha1(b"").hexdigest()
        self.commits: dict[str, dict[str, bytes]] = {first: {}}
        self.branches = {"main": first}

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = {**self.commits[self.branches[branch]], **files}
        oid = hashlib.sha1(json.dumps({name: hash_blob(each) for name, each in content.items()}).encode()).hexdigest()
        self.commits[oid] = content
        self.branches[branch] = oid
        return oid


def hash_blob(content: bytes) -> str:
    """Return git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pt"))


class Hub(ThreadingHTTPServer):
    """The server: its repositories, uploaded objects, and the requests that it answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Routes are patterns of method and path."""

    server: Hub
    protocol_version = "HTTP/1.1"
    routes: ClassVar[dict[str, str]] = {
        r"POST /api/repos/create": "create",
        r"POST /api/validate-yaml": "validate",
        r"GET /api/models/(\w+/[\w.-]+)(?:/revision/([^/]+))?": "describe",
        r"POST /api/models/(\w+/[\w.-]+)/branch/([^/]+)": "make_branch",
        r"POST /api/models/(\w+/[\w.-]+)/preupload/([^/]+)": "choose_modes",
        r"POST /api/models/(\w+/[\w.-]+)/commit/([^/]+)": "commit",
        r"GET /api/models/(\w+/[\w.-]+)/tree/([^/]+)": "list_tree",
        r"POST /(\w+/[\w.-]+)\.git/info/lfs/objects/batch": "start_uploads",
        r"PUT /objects/(\w+)": "take_object",
        r"(?:GET|HEAD) /(\w+/[\w.-]+)/resolve/([^/]+)/(.+)": "send_file",
    }

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        for pattern, name in self.routes.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                groups = [unquote(group) if group else group for group in match.groups()]
                if not self.is_allowed(name, groups):
                    self.answer({"error": "Invalid credentials"}, 401, {"X-Error-Code": "RepoNotFound"})
                    return
                method: Callable[..., None] = getattr(self, name)
                method(body, *groups)
                return
        self.answer({"error": "no such route"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def is_allowed(self, name: str, groups: list[str]) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}" or name == "take_object":
            return True
        repository = self.server.repositories.get(groups[0]) if groups else None
        return name in ("describe", "list_tree", "send_file") and repository is not None and not repository.private

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, each in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, each)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *values: object) -> None:
        """Print nothing."""

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        exists = name in self.server.repositories
        is_private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories.setdefault(name, Repository(is_private))
        self.answer({"url": f"{self.server.address}/{name}"}, 409 if exists else 200)

    def validate(self, body: bytes) -> None:
        self.answer({"errors": [], "warnings": []})

    def find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """Return a repository and a commit; answer if there is none."""
        repository = self.server.repositories.get(name)
        oid = repository.find(revision) if repository else None
        if repository is None or oid is None:
            code = "RepoNotFound" if repository is None else "RevisionNotFound"
            self.answer({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})
            return None
        return repository, oid

    def describe(self, body: bytes, name: str, revision: str | None) -> None:
        if found := self.find(name, revision or "main"):
            repository, oid = found
            files = [{"rfilename": file} for file in repository.commits[oid]]
            self.answer({"id": name, "sha": oid, "private": repository.private, "siblings": files})

    def make_branch(self, body: bytes, name: str, branch: str) -> None:
        if found := self.find(name, "main"):
            repository, oid = found
            exists = branch in repository.branches
            repository.branches.setdefault(branch, oid)
            self.answer({}, 409 if exists else 200)

    def choose_modes(self, body: bytes, name: str, revision: str) -> None:
        files = [
            {"path": each["path"], "uploadMode": "lfs" if is_lfs(each["path"]) else "regular", "shouldIgnore": False}
            for each in json.loads(body)["files"]
        ]
        self.answer({"files": files})

    def start_uploads(self, body: bytes, name: str) -> None:
        objects = [
            {
                **each,
                "actions": {"upload": {"href": f"{self.server.address}/objects/{each['oid']}", "header": {}}},
            }
            for each in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def take_object(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.answer(b"")

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if found := self.find(name, branch):
            files = {}
            for line in filter(None, body.splitlines()):
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
            oid = found[0].commit(branch, files)
            self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})

    def list_tree(self, body: bytes, name: str, revision: str) -> None:
        if found := self.find(name, revision):
            repository, oid = found
            entries = []
            for path, content in repository.commits[oid].items():
                sha = hashlib.sha256(content).hexdigest()
                lfs = {"lfs": {"oid": sha, "size": len(content), "pointerSize": 130}} if is_lfs(path) else {}
                entry = {"type": "file", "path": path, "size": len(content), "oid": hash_blob(content)}
                entries.append({**entry, **lfs})
            self.answer(entries)

    def send_file(self, body: bytes, name: str, revision: str, path: str) -> None:
        if found := self.find(name, revision):
            repository, oid = found
            content = repository.commits[oid].get(path)
            if content is None:
                self.answer({}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(content).hexdigest() if is_lfs(path) else hash_blob(content)
            self.answer(content, 200, {"X-Repo-Commit": oid, "ETag": f'"{etag}"'})


@contextmanager
def run_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
