"""The story: panels, each a prompt with what should not be in it and a seed of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import SettingsError

MAX_PANELS = 64
MAX_SEED = 2**63 - 1 - MAX_PANELS  # a panel without a seed adds its place


@dataclass(frozen=True)
class Panel:
    """One picture of the story.

    Args:
        prompt: What to draw (正向提示词), Chinese or English.
        negative_prompt: What to keep out (反向提示词); None takes the story's.
        seed: Start of this panel's noise; None derives one from the story's seed and the panel's place.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise SettingsError(f"Panel(prompt={self.prompt!r}) has nothing to draw: write what the picture shows.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED):
            raise SettingsError(f"Panel(seed={self.seed!r}) must be a whole number from 0 to {MAX_SEED}, or be left out.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise SettingsError(f"Panel(negative_prompt={self.negative_prompt!r}) must be text, or be left out.")


class Story(Sequence[Panel]):
    """One to sixty-four panels, eight for the contest.

    Args:
        panels: Panels, or plain strings for panels without anything further.
        negative_prompt: For every panel that names none of its own.

    Raises:
        SettingsError: No panel, more than sixty-four, or something that is neither a Panel nor a string.
    """

    def __init__(self, panels: Iterable[Panel | str], negative_prompt: str = "") -> None:
        if isinstance(panels, str):
            raise SettingsError("Story takes a list of panels, not one string: write Story([Panel(\"...\"), ...]).")
        self.panels = tuple(Panel(panel) if isinstance(panel, str) else panel for panel in panels)
        for place, panel in enumerate(self.panels, 1):
            if not isinstance(panel, Panel):
                raise SettingsError(f"Panel {place} of the story is {type(panel).__name__}: write Panel(\"...\") or a plain string.")
        if not 1 <= len(self.panels) <= MAX_PANELS:
            raise SettingsError(f"The story has {len(self.panels)} panels: give it 1 to {MAX_PANELS} (the contest asks for 8).")
        if not isinstance(negative_prompt, str):
            raise SettingsError(f"Story(negative_prompt={negative_prompt!r}) must be text; leave it out for none.")
        self.negative_prompt = negative_prompt
        self.settings: tuple[dict, ...] = ()  # of pictures read back

    @classmethod
    def from_png(cls, paths: Path | str | Iterable[Path | str]) -> "Story":
        """The story that one or several pictures say they were made from, by us or with A1111's ``parameters``.

        Its attribute ``settings`` holds what else each said (steps, sampler, size and so on), by its name there.

        Raises:
            SettingsError: A picture is no PNG or names no prompt.
        """
        from .rendering import png

        paths = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
        panels, settings = [], []
        for path in paths:
            found = png.read(path)
            settings.append(found.pop("settings"))
            try:
                panels.append(Panel(**found))
            except SettingsError as error:
                raise SettingsError(f"{path}: {error}") from error
        story = cls(panels)
        story.settings = tuple(settings)
        return story

    def __getitem__(self, place):
        return self.panels[place]

    def __len__(self) -> int:
        return len(self.panels)

    def resolved(self, seed: int) -> list[dict]:
        """Each panel with its negative prompt and seed filled in: ``prompt``, ``negative_prompt``, ``seed``."""
        return [
            {
                "prompt": panel.prompt.strip(),
                "negative_prompt": (self.negative_prompt if panel.negative_prompt is None else panel.negative_prompt).strip(),
                "seed": seed + place if panel.seed is None else panel.seed,
            }
            for place, panel in enumerate(self.panels)
        ]
