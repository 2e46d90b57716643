"""Data sets for tests: pictures in a folder, and a hub that serves such folders over HTTP.

The hub answers as ModelScope's API does.
"""

import hashlib
import io
import json
import time
import urllib.parse
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import picture
from tests.local_server import Handler, LocalServer


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def noise(seed: int) -> bytes:
    """0.2 MB of PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
    return png(Image.fromarray(pixels))


def captioned_folder(hub: Path) -> Path:
    """Five pictures with a listing beside them, as the data set someone/anime of ``hub``."""
    repository = hub / "someone" / "anime"
    (repository / "train").mkdir(parents=True)
    lines = []
    for seed in range(5):
        picture(seed).save(repository / "train" / f"{seed}.png")
        row = {"file_name": f"{seed}.png", "text": f"二次元 {seed}"}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (repository / "train" / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return repository


class DatasetHub(LocalServer):
    """Serves ``root``.

    Attributes:
        listed: Whether the listing has sizes; a real one sometimes has 0.
        silent: Name of a file for which requests are taken and never answered.
        asked: (method, path) of every request.
    """

    def __init__(self, root: Path, listed: bool = True) -> None:
        self.root, self.listed, self.silent, self.asked = root, listed, None, []
        hub = self

        class DatasetHandler(Handler):
            def do_GET(self):
                url = urllib.parse.urlparse(self.path)
                query = {key: value[0] for key, value in urllib.parse.parse_qs(url.query).items()}
                parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
                hub.asked.append((self.command, self.path))
                match parts:
                    case ["api", "v1", "datasets", owner, name] if (
                        hub.root / owner / name
                    ).is_dir():
                        return self.json(
                            {"Id": f"{owner}--{name}", "Type": 4, "Name": name, "Namespace": owner}
                        )
                    case ["api", "v1", "datasets", number, "repo", "tree"]:
                        return self.json(
                            {"Files": hub.files(number, int(query.get("PageNumber", 1)))}
                        )
                    case ["api", "v1", "datasets", owner, name, "repo"]:
                        return self.file(hub.root / owner / name / query["FilePath"])
                    case ["datasets", owner, name, "resolve", _, *path]:
                        return self.file(hub.root.joinpath(owner, name, *path))
                return self.json({}, 404)

            do_HEAD = do_POST = do_GET

            def json(self, data, status=200):
                success = status == 200
                body = {"Code": status, "Success": success, "Message": "", "Data": data}
                self.answer(status, json.dumps(body).encode())

            def file(self, path):
                if not path.is_file():
                    self.json({}, 404)
                    return
                if path.name == hub.silent and self.command == "GET":
                    time.sleep(60)
                    self.close_connection = True
                    return
                content = path.read_bytes()
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
                begin, end = 0, len(content) - 1
                if asked := self.headers.get("Range"):
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    begin, end = int(first), min(int(last or end), end)
                    headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
                self.answer(206 if asked else 200, content[begin : end + 1], headers)

        super().__init__(DatasetHandler)

    def files(self, number: str, page: int) -> list[dict]:
        """One page of the listing, folders among it."""
        folder = self.root.joinpath(*number.split("--"))
        return [
            {
                "Type": "tree" if path.is_dir() else "blob",
                "Path": path.relative_to(folder).as_posix(),
                "Name": path.name,
                "Size": path.stat().st_size if self.listed and path.is_file() else 0,
                "Sha256": "",
            }
            for path in sorted(folder.rglob("*"))
            if page == 1
        ]
