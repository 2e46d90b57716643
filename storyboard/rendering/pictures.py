"""A story's pictures on disk: how files are called, and how they are written and read back."""

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from storyboard import artifacts, images, png
from storyboard.errors import RenderingError
from storyboard.records import PanelRecord, RecordError, is_version_1

# further text chunks of a panel's PNG, by name
TextChunks = Callable[[PanelRecord], Mapping[str, str]]
GRID, STORY = "story.png", "story.json"
# what is taken away when a story no longer has it; heroine.png is of an earlier version
LEFTOVER = re.compile(r"panel-\d+(-reference)?\.png|character\.png|heroine\.png")


@dataclass(frozen=True)
class Pictures:
    """The story's pictures on disk.

    Attributes:
        folder: Holds ``panel-1.png`` and so on, ``story.png`` (the grid) and ``story.json``; for a
            panel with a reference what it followed, ``panel-1-reference.png``, and
            ``character.png`` where ``character_picture`` was given.
        panels: What each was made from.
    """

    folder: Path
    panels: list[PanelRecord] = field(repr=False)

    @property
    def paths(self) -> list[Path]:
        """The panels in order."""
        return [self.folder / panel_file(index) for index in range(len(self.panels))]

    @property
    def reference_paths(self) -> list[Path]:
        """What panels followed beside their prompts: references and the character's picture."""
        names = {name for panel in self.panels for name in reference_files(panel)}
        return [self.folder / name for name in sorted(names)]

    @property
    def grid(self) -> Path:
        """All panels in one picture."""
        return self.folder / GRID

    def check(self) -> None:
        """Look whether the pictures in the folder are those that were drawn from ``panels``.

        Raises:
            RenderingError: The folder says that another one took the place of a panel's.
        """
        listed = _listed(self.folder)
        for index, panel in enumerate(self.panels):
            now = listed.get(panel_file(index))
            if now and now.as_drawn.fingerprint != panel.as_drawn.fingerprint:
                raise RenderingError(
                    f"The pictures in {self.folder} were drawn over since, panel {index + 1} is "
                    "another one: run the rendering cell again."
                )

    def __str__(self) -> str:
        return f"{len(self.panels)} pictures in {self.folder}, the grid in {self.grid}"

    def _repr_html_(self) -> str:
        from storyboard import show

        self.check()
        prompts = [panel.prompt for panel in self.panels]
        return show.story(list(zip(self.paths, prompts, strict=True)))


def panel_file(index: int) -> str:
    """The name of the PNG of panel ``index``, from 0."""
    return f"panel-{index + 1}.png"


def reference_files(panel: PanelRecord) -> list[str]:
    """Names of the files beside the panel that hold what it followed."""
    followed = (panel.reference, panel.character)
    return [each.file for each in followed if each and each.file]


def drawn_by_earlier_version(folder: Path) -> bool:
    """Whether the manifest of ``folder`` has panels of an earlier form of records."""
    return any(map(is_version_1, _entries(folder)))


def kept_panels(folder: Path, records: Sequence[PanelRecord]) -> dict[int, PanelRecord]:
    """Those of ``records`` that are drawn in ``folder``, with how they were drawn, by index.

    A panel whose record in the manifest cannot be read counts as not drawn, and one whose file, or
    that of what it followed, is not as it was written.
    """
    manifest = artifacts.read_manifest(folder) or {}
    if not manifest and (folder / artifacts.MANIFEST).exists():
        print(f"render: {folder / artifacts.MANIFEST} is damaged, all panels are drawn", flush=True)
    listed = _listed(folder)

    kept = {}
    for index, record in enumerate(records):
        before = listed.get(panel_file(index))
        if before is None or before.as_drawn.fingerprint != record.fingerprint():
            continue
        how = before.as_drawn
        names = [panel_file(index), *reference_files(record)]
        is_whole = all(artifacts.is_whole(folder, name, manifest) for name in names)
        if is_whole and (folder / names[0]).stat().st_size == how.bytes:
            kept[index] = record.model_copy(update={"drawn": how})
        else:
            print(
                f"render: {folder / names[0]} is missing or damaged, it is drawn again", flush=True
            )
    return kept


def _listed(folder: Path) -> dict[str, PanelRecord]:
    """The panels in the manifest of ``folder`` that can be read, by their files."""
    listed = {}
    for entry in _entries(folder):
        with contextlib.suppress(RecordError):
            record = PanelRecord.from_json(entry)
            name = record.drawn and record.drawn.file
            if name and LEFTOVER.fullmatch(name):
                listed[name] = record
    return listed


def _entries(folder: Path) -> list[object]:
    """The panels in the manifest of ``folder``."""
    return (artifacts.read_manifest(folder) or {}).get("panels", [])


def save_panel(
    folder: Path,
    index: int,
    image: Image.Image,
    record: PanelRecord,
    text_chunks: TextChunks | None = None,
) -> PanelRecord:
    """Write the PNG of panel ``index``; returns ``record`` with its file and bytes."""
    further = text_chunks(record) if text_chunks else None
    size = write_image(folder / panel_file(index), image, png.info(record, further))
    drawn = record.drawn and record.drawn.model_copy(
        update={"file": panel_file(index), "bytes": size}
    )
    return record.model_copy(update={"drawn": drawn})


def write_image(path: Path, image: Image.Image, info: PngInfo | None = None) -> int:
    """Write a whole PNG or none; returns its bytes."""
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    artifacts.write_atomically(path, content.getvalue())
    return len(content.getvalue())


def files_of(panels: Sequence[PanelRecord]) -> list[str]:
    """Names of all that is written for ``panels``."""
    names = {panel_file(index) for index in range(len(panels))}
    followed = {name for panel in panels for name in reference_files(panel)}
    return sorted(names | followed | {GRID, STORY})


def write_manifest(folder: Path, fingerprint: str, panels: Sequence[PanelRecord]) -> None:
    """Write ``manifest.json`` of a story that is finished."""
    entries = [panel.to_json() for panel in panels]
    names = files_of(panels)
    artifacts.write_manifest(folder, "render", fingerprint, names, panels=entries)


def write_unfinished(
    folder: Path, drawn: Iterable[PanelRecord], records: Sequence[PanelRecord]
) -> None:
    """Write ``manifest.json`` of a story of which only ``drawn`` is there.

    Panels of the story before it stay listed until they are drawn over.

    Args:
        records: All panels of the story; what is written for them is ours from now on.
    """
    panels = {**_listed(folder), **{panel.as_drawn.file_name: panel for panel in drawn}}
    names = {name for panel in panels.values() for name in reference_files(panel)}
    artifacts.write_manifest(
        folder,
        "render",
        "unfinished",
        names | panels.keys(),
        panels=[panel.to_json() for _, panel in sorted(panels.items())],
        planned=sorted({*files_of(records), *artifacts.named(folder)}),
    )


def finish(folder: Path, fingerprint: str, panels: list[PanelRecord]) -> Pictures:
    """Write grid, ``story.json`` and manifest; remove our pictures of an earlier story."""
    from storyboard import show

    pictures = Pictures(folder, panels)
    for name in artifacts.named(folder) - set(files_of(panels)):
        if LEFTOVER.fullmatch(name):
            (folder / name).unlink(missing_ok=True)

    panels_drawn = [images.read(path).image for path in pictures.paths]
    write_image(pictures.grid, show.grid(panels_drawn))
    artifacts.write_json(folder / STORY, {"panels": [panel.to_json() for panel in panels]})
    write_manifest(folder, fingerprint, panels)
    return pictures
