"""Change a story panel by panel: its words and seeds, and four variations to choose from."""

from pathlib import Path
from typing import Any

from storyboard.lora.file import Lora
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.widgets.display import Widgets, language_of
from storyboard.widgets.edited_story import EditedStory


def edit_story(
    story: Story,
    settings: Settings,
    lora: Lora | Path | str | None = None,
    language: str | None = None,
) -> "StoryEditor":
    """Show ``story`` with boxes for its words and seeds, and buttons that draw.

    Draws what is not drawn yet, into ``<output>/story`` as ``render`` does. The code of the story
    as it stands is shown below, to be copied into its cell.

    Args:
        lora: None draws by the base alone.
        language: Of the labels, "zh" or "en"; None takes that of the prompts.

    Raises:
        SettingsError, LoraError, RenderingError, ResourceError: As of ``render``.
    """
    labels = language_of([panel.text for panel in story], language)
    editor = StoryEditor(story, settings, lora)
    editor.language = labels
    return editor


class StoryEditor(EditedStory, Widgets):
    """A story while it is edited, with its widgets."""

    def box(self) -> Any:
        from storyboard.widgets.panels import PanelCards

        return PanelCards(self, self.language).box
