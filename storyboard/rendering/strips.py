"""One panel several times: at other strengths of the LoRA, along its denoising, by other seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from storyboard import artifacts, show, stages
from storyboard.errors import LoraError, SettingsError, brief
from storyboard.lora.file import Lora
from storyboard.models.run import resolve
from storyboard.rendering import pictures, stage
from storyboard.rendering.panels import panel_records
from storyboard.settings import Settings
from storyboard.story import MAX_PANELS, Panel, Story

FOLDER = "strips"  # in the output folder
SIDE = 150  # pixels of a picture in the display
STRENGTHS = (0.0, 0.5, 1.0, 1.5)
MOMENTS = 6  # pictures of a denoising
MAX_VARIATIONS = MAX_PANELS - 1  # panel 1 may be drawn too


@dataclass(frozen=True)
class Strip:
    """Pictures of one panel, in a row.

    Attributes:
        folder: Holds them.
        pictures: Path and caption of each.
    """

    folder: Path
    pictures: list[tuple[Path, str]]

    @property
    def paths(self) -> list[Path]:
        """The pictures in order."""
        return [path for path, _ in self.pictures]

    def __str__(self) -> str:
        return f"{', '.join(caption for _, caption in self.pictures)}: {self.folder}"

    def _repr_html_(self) -> str:
        return show.page(show.gallery(self.pictures, SIDE))


def strengths(
    story: Story,
    settings: Settings,
    lora: Lora | Path | str,
    panel: int = 1,
    values: Sequence[float] = STRENGTHS,
) -> Strip:
    """Draw one panel with the LoRA at several strengths, into ``<output>/strips/strengths``.

    Its reference and character consistency are left out.

    Args:
        panel: Its number in the story, from 1.
        values: As ``Settings.lora_strength``; 0 is the base alone.

    Raises:
        SettingsError: The story has no such panel, or a strength is out of range.
        LoraError: There is no LoRA, or as of ``render``.
        RenderingError, ResourceError: As of ``render``.
    """
    alone = _alone(story, settings, panel)
    if lora is None:
        raise LoraError(
            "strengths(lora=None) has no LoRA to draw with: give it what the training cell returns."
        )
    runs = [settings.but(lora_strength=value, character=None) for value in values]
    folder = settings.folder / FOLDER / "strengths" / f"panel-{panel}"
    drawn = []
    for each in runs:
        strength = _exact(each.lora_strength)
        made = stage.render(alone, each, lora, folder / strength)
        drawn.append((made.paths[0], f"strength {strength}"))
    strip = Strip(folder, drawn)
    show.tell(strip)
    return strip


@stages.stage("denoising")
def denoising(
    story: Story, settings: Settings, lora: Lora | Path | str | None = None, panel: int = 1
) -> Strip:
    """Draw one panel and show it after several of its steps, from noise to picture.

    Written into ``<output>/strips/denoising``. Its reference and character consistency are left
    out.

    Args:
        lora: None draws by the base alone.
        panel: Its number in the story, from 1.

    Raises:
        SettingsError: The story has no such panel.
        LoraError, RenderingError, ResourceError: As of ``render``.
    """
    run = resolve(settings.but(character=None))
    alone = _alone(story, settings, panel)
    path = stage.lora_path(lora)
    [record] = panel_records(run, alone, path)
    moments = _moments(record.steps)
    target = run.folder / FOLDER / "denoising" / f"panel-{panel}"
    shown = [
        (target / f"step-{step:03d}.png", f"step {step} of {record.steps}") for step in moments
    ]
    strip = Strip(target, shown)
    fingerprint = artifacts.fingerprint(
        stage="denoising", panel=record.fingerprint(), steps=moments
    )
    if artifacts.finished(target, fingerprint):
        print(f"denoising: nothing to do, {strip}")
        return strip

    from storyboard.rendering import sampling
    from storyboard.rendering.renderer import Renderer

    latents: dict[int, torch.Tensor] = {}

    def keep(step: int, batch: torch.Tensor) -> None:
        if step in moments:
            latents[step] = batch.clone()

    renderer = Renderer(run, path, on_latents=keep)
    [drawing] = renderer.draw([record])
    with artifacts.building(target) as folder:
        for step, path in zip(moments, strip.paths, strict=True):
            image = drawing.image
            if step < record.steps:
                image = sampling.as_image(sampling.decode(renderer.pipe, latents[step])[0])
            pictures.write_image(folder / path.name, image)
        artifacts.write_manifest(folder, "denoising", fingerprint)
    show.tell(strip)
    return strip


def variations(
    story: Story,
    settings: Settings,
    lora: Lora | Path | str | None = None,
    panel: int = 1,
    count: int = 4,
    first: int | None = None,
) -> Strip:
    """Draw one panel by other seeds, to choose from, into ``<output>/strips/variations``.

    Each is the picture that ``render`` draws of the panel with that seed: its reference and
    character consistency, for which panel 1 is drawn too, are kept.

    Args:
        lora: None draws by the base alone.
        panel: Its number in the story, from 1.
        count: How many pictures, 1 to 63.
        first: The first seed, the others follow it; None takes the one after the panel's own.

    Raises:
        SettingsError: The story has no such panel, or a number is out of range.
        LoraError, RenderingError, ResourceError: As of ``render``.
    """
    _check_number(story, panel)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_VARIATIONS:
        raise SettingsError(
            f"count={brief(count)} must be a whole number from 1 to {MAX_VARIATIONS}."
        )
    resolved = story.resolved(settings.seed)
    first = resolved[panel - 1].seed + 1 if first is None else first
    drawn = [(panel, first + index) for index in range(count)]
    follows_panel_1 = settings.character is not None and settings.character_picture is None
    if follows_panel_1 and panel == 1:
        settings = settings.but(character=None)
    elif follows_panel_1:
        drawn = [(1, resolved[0].seed), *drawn]

    panels = []
    for number, seed in drawn:
        own = resolved[number - 1]
        panels.append(Panel(own.prompt, own.negative_prompt, seed, story[number - 1].reference))
    name = f"seeds-{first}-{first + count - 1}"
    folder = settings.folder / FOLDER / "variations" / f"panel-{panel}" / name
    made = stage.render(Story(panels), settings, lora, folder)
    captions = [f"seed {each.seed}" for each in panels[-count:]]
    strip = Strip(folder, list(zip(made.paths[-count:], captions, strict=True)))
    show.tell(strip)
    return strip


def _moments(steps: int) -> list[int]:
    """The steps after which a denoising of so many is shown: the first, the last, some between."""
    return sorted({round(1 + i * (steps - 1) / (MOMENTS - 1)) for i in range(MOMENTS)})


def _exact(value: float) -> str:
    """``value`` as short as it can be written without becoming another."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _check_number(story: Story, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(story):
        raise SettingsError(f"panel={brief(number)} must be a whole number from 1 to {len(story)}.")


def _alone(story: Story, settings: Settings, number: int) -> Story:
    """A story of panel ``number`` alone, with what its story shares and its seed.

    Raises:
        SettingsError: There is no such panel.
    """
    _check_number(story, number)
    return Story([story.plain(settings.seed)[number - 1]])
