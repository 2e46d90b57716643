"""A story while it is edited: its words and seeds, its pictures, variations to choose from."""

from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from storyboard.errors import SettingsError, brief
from storyboard.lora.file import Lora
from storyboard.notebook import render
from storyboard.rendering.pictures import Pictures
from storyboard.rendering.strips import Strip, variations
from storyboard.settings import Settings
from storyboard.story import Panel, Story

VARIATIONS = 4


class EditedStory:
    """A story while it is edited.

    Attributes:
        story: As it is now.
        pictures: What was drawn of it; after a change, until ``draw``, of what it was before.
    """

    def __init__(self, story: Story, settings: Settings, lora: Lora | Path | str | None) -> None:
        self.story = story
        self.settings = settings
        self.lora = lora
        self.pictures = self.draw()
        self._next_seed: dict[tuple[int, Panel], int] = {}

    def __str__(self) -> str:
        return self.story.code()

    @property
    def numbers(self) -> range:
        """Of the panels, from 1."""
        return range(1, len(self.story) + 1)

    @property
    def changed(self) -> list[int]:
        """Numbers of the panels that have other words or another seed than when they were drawn."""
        drawn = [(each.prompt, each.negative_prompt, each.seed) for each in self.pictures.panels]
        now = [astuple(panel) for panel in self.story.resolved(self.settings.seed)]
        return [number for number in self.numbers if now[number - 1] != drawn[number - 1]]

    def draw(self) -> Pictures:
        """Draw all panels that changed."""
        self.pictures = render(self.story, self.settings, self.lora)
        return self.pictures

    def change(self, panel: int, **changes: Any) -> None:
        """Give panel number ``panel``, from 1, another ``prompt``, ``negative_prompt`` or ``seed``.

        A new prompt takes the place of the old one and of its parts.

        Raises:
            SettingsError: There is no such panel, or ``Panel`` refuses it; the story stays.
        """
        self._check(panel)
        panels = list(self.story.panels)
        old = panels[panel - 1]
        if "prompt" in changes:
            old = Panel(changes["prompt"], old.negative_prompt, old.seed, old.reference)
        panels[panel - 1] = replace(old, **changes)
        self._set(panels, self.story.negative_prompt)

    def change_all(self, negative_prompt: str) -> None:
        """Give the story another negative prompt, for the panels that name none.

        Raises:
            SettingsError: A bracket lacks its partner; the story stays.
        """
        self._set(self.story.panels, negative_prompt)

    def variations(self, panel: int) -> Strip:
        """Draw panel number ``panel`` by four other seeds; by four further ones the next time.

        Raises:
            SettingsError, LoraError, RenderingError, ResourceError: As of ``variations``.
        """
        self._check(panel)
        resolved = self.story.resolved(self.settings.seed)[panel - 1]
        key = (panel, replace(self.story[panel - 1], seed=None))
        first = self._next_seed.get(key, resolved.seed + 1)
        strip = variations(self.story, self.settings, self.lora, panel, VARIATIONS, first)
        self._next_seed[key] = first + VARIATIONS
        return strip

    def _check(self, panel: int) -> None:
        if isinstance(panel, bool) or not isinstance(panel, int) or panel not in self.numbers:
            raise SettingsError(
                f"panel={brief(panel)} must be a whole number from 1 to {len(self.story)}."
            )

    def _set(self, panels: Iterable[Panel], negative_prompt: str) -> None:
        story = Story(panels, negative_prompt, common=self.story.common, trigger=self.story.trigger)
        story.settings = self.story.settings
        self.story = story
