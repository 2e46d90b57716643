"""The story bundle: LoRA, pictures, page to print, data card and model card in one zip, the same bytes every time."""

import io
import json
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import artifacts
from storyboard.data.cleaning import CleaningReport
from storyboard.errors import BundleError
from storyboard.exporting import cards, page
from storyboard.lora.file import Lora
from storyboard.rendering.stage import Pictures
from storyboard.settings import Settings

FORMAT = 1
TOKENS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MODELSCOPE_API_TOKEN",
)  # environment variables of the hubs' clients
# Anybody's home folder, in which the user's name stands, on Linux, macOS and Windows, as JSON has it too; and tokens as the hubs give them.
PRIVATE = re.compile(
    rb"(?<![\w.])/(?:home|Users)/\w|(?<![\w.])/root/\w|[A-Za-z]:\\{1,2}Users\\{1,2}\w|\bhf_[A-Za-z0-9]{30}|\bms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-"
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
    """Write ``<output>/story.zip``: ``lora.safetensors``, ``story.json``, the panels with what they followed, ``story.png``, ``story.pdf``, the data card and the model card.

    Args:
        report: What cleaning did, for the data card's funnel.

    Raises:
        BundleError: The pictures were drawn with another LoRA, a file is missing, or one would give away a path of this machine or a token.
    """
    path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser()
    for needed in (path, pictures.grid, *pictures.paths, *pictures.guides):
        if not needed.is_file():
            raise BundleError(f"{needed} is missing: run the training and rendering cells again.")
    digest = artifacts.digest_of_file(path)
    if any(panel["lora"] != digest for panel in pictures.panels):
        raise BundleError(
            f"The pictures in {pictures.folder} were not drawn with {path}: run the rendering cell again."
        )
    story = {
        "format": FORMAT,
        "panels": pictures.panels,
        "settings": {
            name: getattr(settings, name) for name in ("text_encoder_bits", "text_encoder_on_cpu")
        },  # beside the panels' own, what changes a picture
    }
    printed = page.draw(
        pictures.paths,
        [panel["prompt"] for panel in pictures.panels],
        "Storyboard · 八格故事" if len(pictures.panels) == 8 else "Storyboard",
    )
    files = {
        "lora.safetensors": path.read_bytes(),
        "story.json": _json(story),
        "story.png": pictures.grid.read_bytes(),
        "story.pdf": page.pdf(printed),
        "data_card.json": _json(cards.data_card(settings, path, report)),
        "README.md": cards.model_card(pictures, path, settings, report).encode(),
        "LICENSES.md": cards.licences(settings).encode(),
        **{file.name: file.read_bytes() for file in pictures.paths + pictures.guides},
    }
    check_private(files, (settings.base or "", settings.dataset, settings.recipe, settings.output))
    target = settings.folder / "story.zip"
    artifacts.write_atomically(target, zipped(files))
    made = Bundle(target, {name: len(files[name]) for name in sorted(files)})
    print(f"bundle: {made}")
    return made


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of ``files``: sorted, dated 1 January 1980, stored, since pictures and weights do not shrink; the same bytes with any zlib."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    return content.getvalue()


def check_private(files: dict[str, bytes], further: tuple[str, ...] = ()) -> None:
    """Raise BundleError where a file holds a home folder, a path of this machine or a hub's token; the message names the file alone.

    Args:
        further: Settings; those that are absolute paths may not stand in a file either.
    """
    secrets = [token.encode() for token in tokens()]
    paths = [
        str(Path.home()),
        str(Path.cwd()),
        *(text for text in further if Path(text).expanduser().is_absolute()),
    ]
    secrets += [
        path.encode() + end for path in paths if len(path) > 3 for end in (b"/", b"\\", b'"')
    ]
    for name, content in files.items():
        if PRIVATE.search(content) or any(secret in content for secret in secrets):
            raise BundleError(
                f"{name} holds a path of this machine or a token: take it out (of a prompt, a recipe or the LoRA's metadata) before it is given away."
            )


def tokens() -> list[str]:
    """The hubs' tokens that the environment holds."""
    return [
        os.environ[name].strip() for name in TOKENS if len(os.environ.get(name, "").strip()) > 7
    ]


def _json(content: object) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
