"""Both hubs' APIs for one repository, ``me/story``, as far as their clients call them."""

import base64
import hashlib
import json
import urllib.parse

from tests.local_server import Handler, LocalServer

TOKEN = "hf_averysecrettoken"


class UploadHub(LocalServer):
    """Takes what is sent and gives it back; refuses all but ``TOKEN``.

    Attributes:
        files: Content by name.
        exists, private: Of the repository; creating it sets both.
        asked: (method, path) of every request.
        lfs: Whether Hugging Face wants all but text as LFS objects.
        fault: Answers a request in place of the hub, if it returns a status and an answer.
    """

    def __init__(self) -> None:
        self.files, self.blobs, self.asked = {}, {}, []
        self.exists = self.private = self.lfs = False
        self.fault = None
        super().__init__(_handler(self))

    @property
    def commit(self) -> str:
        """Of what is there now."""
        listed = "".join(f"{name}:{content!r}" for name, content in sorted(self.files.items()))
        return hashlib.sha1(listed.encode()).hexdigest()

    def answer(self, method: str, path: str, query: dict, body: bytes) -> tuple[int, object]:
        """Status, and the JSON or bytes of the answer."""
        if self.fault and (answer := self.fault(method, path)):
            return answer
        if "/blob/" in path:
            self.blobs[hashlib.sha256(body).hexdigest()] = body
            return 200, {"Code": 200}
        if "/commit/" in path:
            return self._commit(body)
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self._lfs_batch(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return 200, {"files": [self._mode(each) for each in json.loads(body)["files"]]}
        if path == "/api/repos/create":
            return self._create(json.loads(body).get("visibility") == "private")
        if path == "/api/v1/models" and method == "POST":
            return self._create(json.loads(body)["Visibility"] == 1)
        if not self.exists and "me/story" in path:
            return 404, {"Code": 404, "Success": False, "Message": "no such model"}
        return self._read(path, query)

    def _create(self, private: bool) -> tuple[int, dict]:
        if self.exists:
            return 409, {"error": "it exists", "url": f"{self.url}/me/story"}
        self.exists, self.private = True, private
        data = {"Path": "me", "Name": "story"}
        return 200, {"url": f"{self.url}/me/story", "name": "me/story", "Code": 200, "Data": data}

    def _read(self, path: str, query: dict) -> tuple[int, object]:
        if path.endswith("/repo/files"):
            return 200, {"Code": 200, "Success": True, "Data": {"Files": self._modelscope_list()}}
        if "FilePath" in query:
            return self._content(query["FilePath"][0])
        if path.startswith("/me/story/resolve/"):
            return self._content(urllib.parse.unquote(path.split("/", 5)[5]))
        if path.startswith("/api/models/me/story"):
            return 200, self._huggingface_info("/tree/" in path)
        visibility = 1 if self.private else 5
        return 200, {"Code": 200, "Success": True, "Data": {"Visibility": visibility}}

    def _content(self, name: str) -> tuple[int, object]:
        return (200, self.files[name]) if name in self.files else (404, {})

    def _modelscope_list(self) -> list[dict]:
        return [
            {
                "Name": name.rpartition("/")[2],
                "Path": name,
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in sorted(self.files.items())
        ]

    def _huggingface_info(self, tree: bool) -> object:
        sizes = {name: len(content) for name, content in sorted(self.files.items())}
        if tree:
            return [
                {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                for name, size in sizes.items()
            ]
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        facts = {"id": "me/story", "sha": self.commit, "tags": [], "private": self.private}
        return facts | {"siblings": siblings}

    def _mode(self, file: dict) -> dict:
        name = file["path"]
        mode = "lfs" if self.lfs and not name.endswith((".md", ".json")) else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False}

    def _lfs_batch(self, request: dict) -> dict:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.url}/blob/{each['oid']}"}}}
            for each in request["objects"]
        ]
        facts = {"Code": 200, "Success": True, "transfer": "basic"}
        return facts | {"objects": objects, "Data": {"objects": objects}}

    def _commit(self, body: bytes) -> tuple[int, dict]:
        if b'"actions"' in body:
            for each in json.loads(body)["actions"]:
                self._modelscope_action(each)
            return 200, {"Code": 200, "Success": True, "Data": {}}
        for line in map(json.loads, body.decode().splitlines()):
            self._huggingface_line(line["key"], line["value"])
        return 200, {"commitUrl": f"{self.url}/me/story/commit/1", "commitOid": self.commit}

    def _modelscope_action(self, action: dict) -> None:
        if action["action"] == "delete":
            self.files.pop(action["path"])
        elif action["type"] == "lfs":
            self.files[action["path"]] = self.blobs[action["sha256"]]
        else:
            self.files[action["path"]] = base64.b64decode(action["content"])

    def _huggingface_line(self, key: str, value: dict) -> None:
        if key == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        if key == "lfsFile":
            self.files[value["path"]] = self.blobs[value["oid"]]
        if key == "deletedFile":
            self.files.pop(value["path"])


def _handler(hub: UploadHub) -> type[Handler]:
    class UploadHandler(Handler):
        def do_GET(self):
            body = self._body()
            url = urllib.parse.urlparse(self.path)
            hub.asked.append(f"{self.command} {self.path}")
            headers = f"{self.headers.get('Authorization')}{self.headers.get('Cookie')}"
            status, answer = 401, {"error": f"wrong {self.headers.get('Authorization')}"}
            if TOKEN in headers or "/blob/" in self.path:
                query = urllib.parse.parse_qs(url.query)
                status, answer = hub.answer(self.command, url.path, query, body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.answer(status, content, _headers(answer, status, hub.commit))

        do_POST = do_PUT = do_HEAD = do_GET

        def _body(self):
            if length := self.headers.get("Content-Length"):
                return self.rfile.read(int(length))
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return b""
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

    return UploadHandler


def _headers(answer: object, status: int, commit: str) -> dict[str, str]:
    if isinstance(answer, bytes):
        etag = f'"{hashlib.sha1(answer).hexdigest()}"'
        return {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    missing = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
    return {"Content-Type": "application/json"} | missing
