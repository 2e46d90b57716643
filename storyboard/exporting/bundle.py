"""The story bundle: LoRA, pictures, page to print, data card and model card in one zip.

The same story makes the same bytes every time.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts
from storyboard.data.cleaning import CleaningReport
from storyboard.errors import BundleError
from storyboard.exporting import data_card, licences, model_card, page
from storyboard.lora.file import Lora
from storyboard.models import tokens
from storyboard.rendering.stage import Pictures
from storyboard.settings import Settings

FORMAT = 2  # of story.json; 1 held records of version 1, and settings apart
# Anybody's home folder, in which the user's name stands, on Linux, macOS and Windows, as JSON has
# it too; and tokens as the hubs give them.
PRIVATE = re.compile(
    rb"(?<![\w.])/(?:home|Users)/\w"
    rb"|(?<![\w.])/root/\w"
    rb"|[A-Za-z]:\\{1,2}Users\\{1,2}\w"
    rb"|\bhf_[A-Za-z0-9]{30}"
    rb"|\bms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-"
)


@dataclass(frozen=True)
class Bundle:
    """A story bundle on disk.

    Attributes:
        path: ``story.zip``.
        files: Name -> bytes of what it holds.
    """

    path: Path
    files: dict[str, int] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.path} ({self.path.stat().st_size / 1e6:.1f} MB, {len(self.files)} files)"

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.table(
            str(self),
            ["file", "KB"],
            [[name, f"{size / 1000:,.1f}"] for name, size in self.files.items()],
        )


def bundle(
    pictures: Pictures,
    lora: Lora | Path | str,
    settings: Settings,
    report: CleaningReport | None = None,
) -> Bundle:
    """Write ``<output>/story.zip``.

    It holds ``lora.safetensors``, ``story.json``, the panels with what they followed,
    ``story.png``, ``story.pdf``, the data card and the model card.

    Args:
        report: What cleaning did, for the data card's funnel.

    Raises:
        BundleError: The pictures were drawn with another LoRA, a file is missing, or one would give
            away a path of this machine or a token.
        RenderingError: Pictures of another story were drawn over them.
    """
    path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser()
    _check_files(pictures, path)

    panels = pictures.panels
    title = "Storyboard · 八格故事" if len(panels) == 8 else "Storyboard"
    printed = page.draw(pictures.paths, [panel.prompt for panel in panels], title)
    story = {"format": FORMAT, "panels": [panel.to_json() for panel in panels]}
    files = {
        "lora.safetensors": path.read_bytes(),
        "story.json": _json(story),
        "story.png": pictures.grid.read_bytes(),
        "story.pdf": page.pdf(printed),
        "data_card.json": _json(data_card.build(settings, path, report)),
        "README.md": model_card.build(pictures, path, settings, report).encode(),
        "LICENSES.md": licences.build(settings).encode(),
    }
    for file in (*pictures.paths, *pictures.reference_paths):
        files[file.name] = file.read_bytes()
    check_private(files, (settings.base or "", settings.dataset, settings.recipe, settings.output))

    target = settings.folder / "story.zip"
    artifacts.write_atomically(target, zipped(files))
    made = Bundle(target, {name: len(files[name]) for name in sorted(files)})
    print(f"bundle: {made}")
    return made


def _check_files(pictures: Pictures, lora: Path) -> None:
    """Raise BundleError unless all files are there and the pictures were drawn with ``lora``."""
    for needed in (lora, pictures.grid, *pictures.paths, *pictures.reference_paths):
        if not needed.is_file():
            raise BundleError(f"{needed} is missing: run the training and rendering cells again.")
    pictures.check()
    digest = artifacts.digest_of_file(lora)
    if any(panel.lora is None or panel.lora.digest != digest for panel in pictures.panels):
        raise BundleError(
            f"The pictures in {pictures.folder} were not drawn with {lora}: "
            "run the rendering cell again."
        )


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of ``files``: sorted, dated 1 January 1980, the same bytes with any zlib.

    They are stored, since pictures and weights do not shrink.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    return content.getvalue()


def check_private(files: dict[str, bytes], further: tuple[str, ...] = ()) -> None:
    """Raise BundleError where a file holds a path of this machine or a hub's token.

    The message names the file alone.

    Args:
        further: Settings; those that are absolute paths may not stand in a file either.
    """
    paths = [str(Path.home()), str(Path.cwd())]
    paths += [text for text in further if Path(text).expanduser().is_absolute()]
    secrets = [token.encode() for token in tokens.in_environment()]
    for path in paths:
        if len(path) > 3:
            secrets += [path.encode() + end for end in (b"/", b"\\", b'"')]

    for name, content in files.items():
        if PRIVATE.search(content) or any(secret in content for secret in secrets):
            raise BundleError(
                f"{name} holds a path of this machine or a token: take it out (of a prompt, a "
                "recipe or the LoRA's metadata) before it is given away."
            )


def _json(content: object) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
