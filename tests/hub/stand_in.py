"""A stand-in of the Hub's HTTP API that keeps repositories in memory; nothing leaves the machine."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_a-token-of-the-tests"


class Hub(ThreadingHTTPServer):
    """Repositories by name: {"private": bool, "commits": {id: {file: bytes}}, "main": id}."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories = {}
        self.tokens = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send({"error": "a token is needed"}, 401)
        repositories = self.server.repositories
        if self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\nlibrary_name: rl-transformer\n")
            return self.send({"warnings": [], "errors": []})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in repositories:
                return self.send({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            repositories[name] = {
                "private": wanted["visibility"] == "private",
                "commits": {"0" * 40: {}},
                "main": "0" * 40,
            }
            return self.send({"url": f"{self.server.url}/{name}", "name": name})
        name, action = self.repository()
        if action.startswith("preupload/"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send({"files": files})
        assert action.startswith("commit/"), self.path
        content = dict(repositories[name]["commits"][repositories[name]["main"]])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = hashlib.sha1(body).hexdigest()
        repositories[name]["commits"][commit] = content
        repositories[name]["main"] = commit
        return self.send(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"}
        )

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            name, action = self.repository()
            if name not in self.server.repositories:
                return self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            repository = self.server.repositories[name]
            commit = self.commit(repository, action.partition("/")[2])
            if action.startswith("tree/"):
                stored = repository["commits"][commit].items()
                entries = [{"type": "file", "path": file, "size": len(data), "oid": commit} for file, data in stored]
                return self.send(entries)
            files = [{"rfilename": file, "size": len(data)} for file, data in repository["commits"][commit].items()]
            return self.send(
                {"id": name, "sha": commit, "private": repository["private"], "siblings": files, "tags": []}
            )
        return self.file(with_body=True)

    def do_HEAD(self):
        self.file(with_body=False)

    def repository(self):
        organization, name, *rest = self.path.split("?")[0].removeprefix("/api/models/").split("/", 2)
        return f"{organization}/{name}", rest[0] if rest else ""

    def commit(self, repository, revision):
        return revision if revision in repository["commits"] else repository["main"]

    def file(self, *, with_body):
        organization, name, _, revision, file = self.path.lstrip("/").split("?")[0].split("/", 4)
        repository = self.server.repositories[f"{organization}/{name}"]
        commit = self.commit(repository, revision)
        data = repository["commits"][commit][file]
        self.send_response(200)
        for key, value in {
            "Content-Length": len(data),
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": commit,
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def send(self, values, status=200, headers=None):
        data = json.dumps(values).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running_hub():
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
