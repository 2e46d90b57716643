"""Two sets of pictures beside each other: what the LoRA changes."""

from PIL import ImageChops, ImageStat

from storyboard import images, show
from storyboard.rendering.pictures import Pictures

SIDE = 120  # pixels of a picture in the display


class Pair:
    """Two sets of pictures with the same prompts and seeds, one row each."""

    def __init__(self, base: Pictures, lora: Pictures) -> None:
        self.base, self.lora = base, lora

    def difference(self) -> float:
        """Mean absolute difference of the two sets, 0 to 255.

        Raises:
            RenderingError: Pictures of another story were drawn over one of them.
        """
        self.base.check()
        self.lora.check()
        differences = []
        for base, lora in zip(self.base.paths, self.lora.paths, strict=True):
            one, other = images.read(base).image, images.read(lora).image
            difference = ImageChops.difference(one, other)
            differences.append(sum(ImageStat.Stat(difference).mean) / 3)
        return sum(differences) / len(differences)

    def __str__(self) -> str:
        return f"base: {self.base.folder}, LoRA: {self.lora.folder}, {self._difference()}"

    def _repr_html_(self) -> str:
        rows = [
            f"<div><b>{name}</b><br>{show.row_of(pictures.paths, SIDE)}</div>"
            for name, pictures in (("base", self.base), ("LoRA", self.lora))
        ]
        return show.page(*rows, self._difference())

    def _difference(self) -> str:
        return f"mean difference {self.difference():.0f} of 255"
