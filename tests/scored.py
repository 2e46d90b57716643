"""Pictures for tests of scoring, as ``render`` leaves them."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from storyboard.records import BaseRecord, LoraRecord, PanelRecord
from storyboard.rendering.pictures import Pictures, panel_file


def pictures_of(folder: Path, panels: Sequence[tuple[Image.Image, str]]) -> Pictures:
    """A story in ``folder`` of given pictures and prompts, as if drawn with a LoRA."""
    folder.mkdir(parents=True)
    for index, (image, _) in enumerate(panels):
        image.save(folder / panel_file(index))
    return Pictures(folder, [_record(prompt) for _, prompt in panels])


def _record(prompt: str) -> PanelRecord:
    return PanelRecord(
        prompt=prompt,
        negative_prompt="",
        seed=0,
        width=64,
        height=64,
        steps=1,
        guidance_scale=1.0,
        base=BaseRecord(name="mini", family="kolors", pipeline="KolorsPipeline"),
        lora=LoraRecord(digest="0" * 64),
    )
