"""Pictures for tests of scoring, as ``render`` leaves them."""

from storyboard.rendering.stage import Pictures


def pictures_of(folder, panels):
    """A story as ``render`` leaves it, of given pictures: ``panels`` are (picture, prompt)."""
    folder.mkdir(parents=True)
    for place, (image, _) in enumerate(panels, 1):
        image.save(folder / f"panel-{place}.png")
    return Pictures(folder, [{"prompt": prompt, "lora": "0" * 64} for _, prompt in panels])
