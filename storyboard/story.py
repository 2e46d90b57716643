"""The story: panels, each a prompt with what should not be in it and a seed of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import SettingsError
from .reference import Reference

MAX_PANELS = 64
MAX_SEED = 2**63 - 1 - MAX_PANELS  # a panel without a seed adds its place


@dataclass(frozen=True)
class Panel:
    """One picture of the story.

    Args:
        prompt: What to draw (正向提示词), Chinese or English.
        negative_prompt: What to keep out (反向提示词); None takes the story's.
        seed: Start of this panel's noise; None derives one from the story's seed and the panel's place.
        reference: A picture that this one follows, or its path for its edges (参考图).
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    reference: Reference | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise SettingsError(f"Panel(prompt={self.prompt!r}) has nothing to draw: write what the picture shows.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED):
            raise SettingsError(f"Panel(seed={self.seed!r}) must be a whole number from 0 to {MAX_SEED}, or be left out.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise SettingsError(f"Panel(negative_prompt={self.negative_prompt!r}) must be text, or be left out.")
        if isinstance(self.reference, str):
            object.__setattr__(self, "reference", Reference(self.reference))
        if not isinstance(self.reference, Reference | None):
            raise SettingsError(f"Panel(reference={self.reference!r}) must be a Reference, the path of a picture, or be left out.")


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
