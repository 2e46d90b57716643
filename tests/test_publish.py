import base64
import hashlib
import http.server
import json
import threading
import traceback

import pytest

from storyboard import publish
from storyboard.errors import BundleError, SettingsError
from storyboard.exporting.bundle import zipped

TOKEN = "hf_averysecrettoken"
FILES = {
    "README.md": "---\nlicense: cc-by-4.0\n---\n故事".encode(),
    "lora.safetensors": b"lora" * 100,
    "story.json": b"{}",
    "panel-1.png": b"png",
}


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "story.zip"
    path.write_bytes(zipped(FILES))
    return path


class Hub:
    """Both hubs' APIs for uploads as far as their clients call them.

    Keeps what is sent, refuses all but ``TOKEN``.
    """

    def __init__(self):
        self.files, self.blobs, self.asked, self.lfs, hub = {}, {}, [], False, self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                length = self.headers.get("Content-Length")
                body = (
                    self.rfile.read(int(length))
                    if length
                    else self.chunks()
                    if "chunked" in self.headers.get("Transfer-Encoding", "")
                    else b""
                )
                hub.asked.append(f"{self.command} {self.path}")
                allowed = (
                    TOKEN in f"{self.headers.get('Authorization')}{self.headers.get('Cookie')}"
                    or "/blob/" in self.path
                )
                status, answer = (
                    hub.answer(self.command, self.path.split("?")[0], body)
                    if allowed
                    else (401, {"error": f"wrong {self.headers.get('Authorization')}"})
                )
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_POST = do_PUT = do_HEAD = do_GET

            def chunks(self):
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def mode(self, name):
        return "lfs" if self.lfs and not name.endswith((".md", ".json")) else "regular"

    def answer(self, method, path, body):
        if "/blob/" in path:
            self.blobs[hashlib.sha256(body).hexdigest()] = body
            return 200, {"Code": 200}
        if path == "/api/repos/create":
            return 200, {"url": f"{self.url}/me/story", "name": "me/story"}
        if "/preupload/" in path:
            return 200, {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": self.mode(each["path"]),
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
            }
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/commit/" in path and b'"actions"' not in body:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.blobs[line["value"]["oid"]]
            return 200, {"commitUrl": f"{self.url}/me/story/commit/1", "commitOid": "1" * 40}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.url}/blob/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {
                "Code": 200,
                "Success": True,
                "transfer": "basic",
                "objects": objects,
                "Data": {"objects": objects},
            }
        if "/commit/" in path:
            for each in json.loads(body)["actions"]:
                self.files[each["path"]] = (
                    self.blobs[each["sha256"]]
                    if each["type"] == "lfs"
                    else base64.b64decode(each["content"])
                )
        if method == "GET" and path.endswith("/models/me/story"):
            return 404, {"Code": 404, "Success": False, "Message": "no such model"}
        return 200, {"Code": 200, "Success": True, "Data": {}}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = Hub()
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, made.url)
    yield made
    made.server.shutdown()


def test_publishing_a_bundle_is_a_dry_run_unless_asked(bundle, hub, capsys):
    result = publish(bundle, "me/story", token=TOKEN)
    assert (
        not result.sent
        and hub.asked == []
        and result.url == "https://modelscope.cn/models/me/story"
    )
    said = capsys.readouterr().out
    assert (
        "nothing sent" in said
        and "lora.safetensors            0.4 KB" in said
        and TOKEN not in said
    )


@pytest.mark.parametrize(
    ("name", "lfs"), [("huggingface", False), ("huggingface", True), ("modelscope", True)]
)
def test_a_published_bundle_arrives_whole_and_the_token_is_nowhere(
    bundle, hub, name, lfs, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # the stand-in has no such store
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hub.lfs = lfs
    result = publish(bundle, "me/story", name, TOKEN + "\n", dry_run=False)
    assert result.sent and hub.files == FILES | {"story.zip": bundle.read_bytes()}, hub.asked
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err + repr(result) and not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_hub_that_refuses_a_bundle_shows_no_token(bundle, hub, name, capfd):
    wrong = "-".join(["hf_wrong", "and", "secret"])  # a traceback quotes this file
    with pytest.raises(BundleError, match=f"{name} did not take me/story") as caught:
        publish(bundle, "me/story", name, wrong, dry_run=False)
    said = capfd.readouterr()
    assert (
        wrong not in said.out + said.err + "".join(traceback.format_exception(caught.value))
        and caught.value.__context__ is None
    )


def test_publishing_a_bundle_without_a_network_is_one_sentence_without_the_token(
    bundle, monkeypatch, capfd
):
    wrong = "-".join(["hf_wrong", "and", "secret"])
    monkeypatch.setenv(
        "HF_ENDPOINT", "http://127.0.0.1:9"
    )  # ModelScope's client tries for 16 seconds
    with pytest.raises(BundleError, match="huggingface did not take me/story") as caught:
        publish(bundle, "me/story", "huggingface", wrong, dry_run=False)
    said = capfd.readouterr()
    assert "\n" not in str(caught.value) and wrong not in said.out + said.err + "".join(
        traceback.format_exception(caught.value)
    )


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_failure_that_quotes_the_token_publishes_none_of_it(bundle, monkeypatch, name):
    wrong = "-".join(["hf_wrong", "and", "secret"])
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "-".join(["ms", "also", "secret"]))

    def quoting(*_):
        raise LookupError(
            "x" * 190 + f" Bearer {wrong} ms-also-secret"
        )  # cut off in the middle of the token

    monkeypatch.setattr(f"storyboard.exporting.publish._{name}", quoting)
    with pytest.raises(BundleError) as caught:
        publish(bundle, "me/story", name, wrong, dry_run=False)
    assert not [
        word
        for word in ("hf_", "secret", "ms-")
        if word in "".join(traceback.format_exception(caught.value))
    ]


def test_an_error_of_ours_keeps_its_sentence_when_publishing(bundle, monkeypatch):
    def refusing(*_):
        raise SettingsError("a sentence of its own.")

    monkeypatch.setattr("storyboard.exporting.publish._huggingface", refusing)
    with pytest.raises(SettingsError, match="^a sentence of its own.$"):
        publish(bundle, "me/story", "huggingface", TOKEN, dry_run=False)


def test_a_token_that_is_no_token_is_refused_without_showing_it(bundle):
    for wrong in ("hf_se cret", "hf_se\ncret", "hf_secret密", " "):
        with pytest.raises(SettingsError, match="one word") as caught:
            publish(bundle, "me/story", token=wrong)
        assert "cret" not in str(caught.value)


def test_a_bundle_with_a_home_folder_in_it_is_not_published(tmp_path):
    header = {"__metadata__": {"ss_sd_model_name": r"C:\Users\anna\sdxl.safetensors"}}
    files = FILES | {"lora.safetensors": json.dumps(header).encode()}
    (tmp_path / "story.zip").write_bytes(zipped(files))
    with pytest.raises(BundleError, match="lora.safetensors holds a path"):
        publish(tmp_path / "story.zip", "me/story")


def test_what_cannot_be_published_says_so(bundle, tmp_path):
    with pytest.raises(SettingsError, match="hub='github'"):
        publish(bundle, "me/story", "github")
    with pytest.raises(SettingsError, match="owner/name"):
        publish(bundle, "story")
    (tmp_path / "bad.zip").write_bytes(zipped({"README.md": b""}))
    with pytest.raises(BundleError, match="lacks lora.safetensors"):
        publish(tmp_path / "bad.zip", "me/story")
