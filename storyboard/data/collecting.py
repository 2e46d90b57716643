"""Stage 1, collect: pictures and captions from anywhere into one folder, upright, opaque, sRGB.

``Captions`` is a folder with ``metadata.jsonl`` (Data-Juicer's multimodal form: ``id``, ``text``, ``images``;
relative POSIX paths, UTF-8) and the pictures it names.
"""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts, resources
from storyboard.data import captioning, hub
from storyboard.errors import DatasetError, ResourceError
from storyboard.settings import Settings

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SAMPLE = resources.path("data/sample")
FILE_KEYS = ("file_name", "image", "images", "path", "image_path")
KOHYA = re.compile(
    r"(\d+)_(.+)"
)  # repeats and concept (https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md)


@dataclass(frozen=True)
class Captions:
    """A set of captioned pictures on disk.

    Attributes:
        folder: Holds ``metadata.jsonl`` and the pictures.
        rows: ``{"id", "text", "images": [one path relative to folder]}`` each.
        unreadable: ``{"source", "reason"}`` of what was left out.
        digest: SHA-256 over every caption and every picture's content.
    """

    folder: Path
    rows: list[dict]
    unreadable: list[dict] = field(default_factory=list)
    digest: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, row: dict) -> Path:
        """Where the picture of ``row`` lies."""
        return self.folder / row["images"][0]

    @classmethod
    def load(cls, folder: Path) -> "Captions":
        """Read what ``collect`` or ``clean`` wrote."""
        manifest = artifacts.read_manifest(folder) or {}
        with open(folder / "metadata.jsonl", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return cls(
            folder,
            rows,
            manifest.get("unreadable", []),
            manifest.get("digest") or digest_of(folder, rows),
        )

    def __str__(self) -> str:
        return f"{len(self)} captioned pictures in {self.folder}" + (
            f", {len(self.unreadable)} left out as unreadable" if self.unreadable else ""
        )

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.captions(self)


def digest_of(folder: Path, rows: list[dict]) -> str:
    """SHA-256 over every caption and every picture's content."""
    return artifacts.fingerprint(
        rows=[[row["text"], artifacts.digest_of_file(folder / row["images"][0])] for row in rows]
    )


def collect(settings: Settings) -> Captions:
    """Bring the data set of ``settings`` into ``<output>/collected``.

    EXIF rotation is applied, transparency laid on white, colour profiles turned to sRGB. A file that cannot be
    read to its last byte is reported in ``Captions.unreadable`` and left out. A picture without a caption, or with one
    that says nothing (``captioning.lazy``), takes ``caption_template`` or, in a folder named as kohya's scripts want it
    (``10_concept``), the concept, else what ``captioner`` writes; the number there, kohya's repeats, is not used: an
    epoch has every picture once.

    Raises:
        DatasetError: No such folder or data set, or no readable picture in it, or ``captioner`` failed over one.
        SettingsError, BaseError: ``captioner`` is no model that describes pictures, or cannot be fetched.
        ResourceError: The disk is too small for it; nothing was kept.
    """
    target = settings.folder / "collected"
    source = SAMPLE if settings.dataset == "sample" else Path(settings.dataset).expanduser()
    if not source.is_dir():
        if settings.dataset == "sample" or not hub.looks_like_id(settings.dataset):
            raise DatasetError(
                f'There is no folder {str(source)!r}: set dataset to "sample", to a folder of pictures, or to a ModelScope id such as {hub.DEFAULT!r}.'
            )
        source = hub.fetch(settings.dataset, settings.folder / "hub")
    listed = [
        _filled(item, source, settings.caption_template)
        for item in read_folder(source, settings.folder)
    ]
    if not any(item["file"] for item in listed):
        raise DatasetError(
            f"No picture in {str(source)!r}: put .png, .jpg or .webp files there, each with a caption of the same name in .txt, or a metadata.jsonl."
        )
    _tell(listed, source, settings.captioner)
    stamps = [[item["name"], item["text"], *_stamp(item["file"])] for item in listed]
    captioner = None if all(item["text"] for item in listed) else captioning.mark(settings)
    mark = artifacts.fingerprint(
        stage="collect", items=stamps, captioner=captioner, versions=artifacts.versions("pillow")
    )
    if artifacts.finished(target, mark):
        captions = Captions.load(target)
        print(f"collect: nothing to do, {captions}")
        return captions
    needed = sum(size for *_, size, _ in stamps) * 2
    if missing := artifacts.free_space_needed(target, needed):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for {len(listed)} pictures: free some space or set output to another disk."
        )
    try:
        with artifacts.building(target) as folder:
            captions = _bring(listed, folder, target, settings)
            artifacts.write_manifest(
                folder,
                "collect",
                mark,
                source=settings.dataset,
                digest=captions.digest,
                unreadable=captions.unreadable,
            )
    except OSError as error:
        if not artifacts.disk_is_full(error):
            raise
        said = f"The disk of {target} became full while {len(listed)} pictures were brought in"  # a re-encoded one may grow
        raise ResourceError(
            f"{said}, nothing was kept: free some space or set output to another disk."
        ) from error
    print(f"collect: {captions}")
    return captions


def read_folder(folder: Path, output: Path | None = None) -> Iterator[dict]:
    """What a folder says of its pictures: ``name``, ``text`` and ``file`` (None with a ``reason`` if it cannot be).

    Understands ``metadata.jsonl`` and ``metadata.csv`` as Hugging Face's imagefolder and Data-Juicer write them,
    and otherwise same-named ``.txt`` or ``.caption`` files beside the pictures, as kohya's scripts do. What lies in
    ``output``, in hidden folders or behind a dangling link is passed over.
    """
    made = output.resolve() if output else None
    if (folder / "metadata.jsonl").is_file():
        lines = read_text(folder / "metadata.jsonl").split("\n")
        rows = [
            _parsed(line, number, folder) for number, line in enumerate(lines, 1) if line.strip()
        ]
        yield from (_listed(row, folder, "metadata.jsonl") for row in rows)
    elif (folder / "metadata.csv").is_file():
        lines = io.StringIO(read_text(folder / "metadata.csv"), newline="")
        yield from (_listed(row, folder, "metadata.csv") for row in csv.DictReader(lines))
    else:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in inside.parts)
            if (
                path.suffix.lower() not in PICTURES
                or hidden
                or not path.is_file()
                or (made and path.resolve().is_relative_to(made))
            ):
                continue
            text = next(
                (
                    p
                    for p in (path.with_suffix(".txt"), path.with_suffix(".caption"))
                    if p.is_file()
                ),
                None,
            )
            yield {
                "name": inside.as_posix(),
                "text": read_text(text).strip() if text else "",
                "file": path,
            }


def _filled(item: dict, source: Path, template: str | None) -> dict:
    """``item`` with a caption, if it had none that says anything and there is a template or a concept."""
    if not captioning.lazy(item["text"]):
        return item
    place = source.resolve().name / Path(item["name"])
    concept = KOHYA.fullmatch(place.parent.name)
    if template is None:
        return item | {"text": concept[2].strip() if concept else ""}
    return item | {
        "text": template.replace("{folder}", concept[2] if concept else place.parent.name)
        .replace("{file}", place.stem)
        .strip()
    }


def _tell(listed: list[dict], source: Path, captioner: str | None) -> None:
    repeats = {
        concept[1]
        for item in listed
        if (concept := KOHYA.fullmatch((source.resolve().name / Path(item["name"])).parent.name))
    }
    if len(repeats) > 1:
        print(
            f"collect: the numbers of the folders ({', '.join(sorted(repeats, key=int))}) are not used as repeats, an epoch has every picture once; copy pictures to weigh them"
        )
    bare = sum(not item["text"] for item in listed)
    if bare and captioner:
        print(
            f"collect: {bare} of {len(listed)} pictures have no caption that says anything, {captioner} writes one for each"
        )
    elif bare and source != SAMPLE:
        print(
            f"collect: {bare} of {len(listed)} pictures have no caption that says anything, and cleaning may drop them: write a .txt of the same name beside each, or set "
            'caption_template, such as "二次元，{folder}", or captioner, such as "Salesforce/blip-image-captioning-large"'
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8 or, as editors on Chinese Windows save it, in GB 18030."""
    content = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DatasetError(f"{path} is neither UTF-8 nor GB 18030 text: save it as UTF-8.")


def _parsed(line: str, number: int, folder: Path) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"Line {number} of {folder / 'metadata.jsonl'} is not JSON ({error.msg}): correct or remove it."
        ) from error
    if not isinstance(row, dict):
        raise DatasetError(
            f'Line {number} of {folder / "metadata.jsonl"} is not an object: write {{"file_name": ..., "text": ...}}.'
        )
    return row


def _listed(row: dict, folder: Path, listing: str) -> dict:
    name = next((row[key] for key in FILE_KEYS if row.get(key)), None)
    if isinstance(name, list):
        name = name[0]
    if not isinstance(name, str):
        raise DatasetError(
            f"A row of {folder / listing} names no picture: give each a {FILE_KEYS[0]!r}."
        )
    text = next((row[key] for key in hub.TEXT_KEYS if row.get(key)), "")
    item = {"name": name, "text": str(text).strip(), "file": None}
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return item | {"reason": "lies outside the folder"}
    return item | (
        {"file": path} if path.is_file() else {"reason": str(row.get("reason") or "no such file")}
    )


def _stamp(path: Path | None) -> tuple[int, int]:
    if path is None:
        return (0, 0)
    status = path.stat()
    return (status.st_size, status.st_mtime_ns)


def _bring(listed: list[dict], folder: Path, target: Path, settings: Settings) -> Captions:
    """Normalise every picture into ``folder``; threads, because Pillow decodes outside the interpreter lock."""
    from storyboard.data import pictures

    (folder / "images").mkdir()
    width = max(4, len(str(len(listed))))

    def bring(place: int, item: dict) -> dict:
        if item["file"] is None:
            return {"source": item["name"], "reason": item["reason"]}
        stem = folder / "images" / f"{place:0{width}d}"
        try:
            written = normalise(item["file"], stem)
        except pictures.UNREADABLE as error:
            if artifacts.disk_is_full(error):
                raise
            return {
                "source": item["name"],
                "reason": f"{type(error).__name__}: {str(error).replace(str(item['file']), item['name'])}",
            }
        return {
            "id": written.stem,
            "text": item["text"],
            "images": [f"images/{written.name}"],
            "source": item["name"],
            "digest": artifacts.digest_of_file(written),
        }

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(bring, range(len(listed)), listed))
    rows = [row for row in results if "id" in row]
    unreadable = [row for row in results if "id" not in row]
    if not rows:
        raise DatasetError(
            f"None of the {len(listed)} pictures could be read, the first because: {unreadable[0]['reason']}."
        )
    bare = [row for row in rows if not row["text"]]
    if bare and settings.captioner:
        for row, text in zip(
            bare,
            captioning.write(
                [folder / row["images"][0] for row in bare], settings.captioner, settings.seed
            ),
        ):
            row["text"] = text
    digest = artifacts.fingerprint(
        rows=[[row["text"], row["digest"]] for row in rows]
    )  # digest_of, its hashes at hand
    lines = [{key: value for key, value in row.items() if key != "digest"} for row in rows]
    artifacts.write_atomically(
        folder / "metadata.jsonl",
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
    )
    return Captions(target, lines, unreadable, digest)


def normalise(source: Path, stem: Path) -> Path:
    """Write ``source`` upright, opaque and sRGB beside ``stem``; bytes are copied where nothing has to change.

    Raises:
        pictures.UNREADABLE: The file is broken, or has more pixels than Pillow's limit allows.
    """
    from PIL import Image, ImageCms, ImageFile

    from storyboard.data import pictures

    if ImageFile.LOAD_TRUNCATED_IMAGES:  # Data-Juicer switches it on for the whole process
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    with Image.open(source) as image:
        image.load()
        fits = (
            image.mode == "RGB"
            and image.getexif().get(pictures.ORIENTATION, 1) == 1
            and "icc_profile" not in image.info
        )
        if fits and image.format in ("PNG", "JPEG"):
            written = stem.with_suffix(".png" if image.format == "PNG" else ".jpg")
            shutil.copyfile(source, written)
            return written
        profile = image.info.get("icc_profile")
        upright = pictures.eight_bits(pictures.upright(image))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    if profile and upright.mode in ("RGB", "L", "CMYK"):
        try:
            upright = ImageCms.profileToProfile(
                upright,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except ImageCms.PyCMSError as error:
            raise ValueError(f"its colour profile cannot be read ({error})") from error
    written = stem.with_suffix(".png")
    upright.convert("RGB").save(written, pnginfo=None, icc_profile=None, exif=b"")
    return written
