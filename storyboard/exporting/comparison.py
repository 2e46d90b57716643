"""How far pictures that were made again differ from those of before, and the verdict."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storyboard import images
from storyboard.errors import BundleError, PictureError

# Of 255: what another grouping of the same arithmetic changes
TOLERANCE = {"fp32": 1, "bf16": 2, "fp16": 2}
VERDICTS = ("identical", "within tolerance", "different")


@dataclass(frozen=True)
class Reproduction:
    """The pictures made again.

    Attributes:
        folder: Holds them as ``panel-1.png`` and so on.
        verdicts: ``"identical"``, ``"within tolerance"`` or ``"different"`` a panel.
        differences: The largest difference a panel, of 255.
        tolerance: The largest that is within tolerance, of 255: 1 in fp32, 2 in bf16 and fp16.
        changed: What is not as it was when the pictures were drawn, a sentence each.
    """

    folder: Path
    verdicts: list[str]
    differences: list[int] = field(repr=False)
    changed: list[str]
    tolerance: int = 1

    def __str__(self) -> str:
        counts = ", ".join(
            f"{self.verdicts.count(verdict)} {verdict}"
            for verdict in VERDICTS
            if verdict in self.verdicts
        )
        lines = [
            f"reproduce: of {len(self.verdicts)} panels {counts} "
            f"(tolerance {self.tolerance} of 255), in {self.folder}"
        ]
        for number, verdict, difference in self._rows():
            by = f", by up to {difference} of 255" if difference else ""
            lines.append(f"  panel {number}: {verdict}{by}")
        lines += [f"  changed: {line}" for line in self.changed]
        if not self.changed and "different" in self.verdicts:
            lines.append(
                "  base, LoRA and versions are the same: another machine, "
                "or pictures that were changed afterwards"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.table(
            str(self).splitlines()[0],
            ["panel", "verdict", "largest difference of 255"],
            [list(row) for row in self._rows()] + [["changed", line, ""] for line in self.changed],
        )

    def _rows(self) -> Iterator[tuple[int, str, int]]:
        """Number, verdict and difference of each panel."""
        results = zip(self.verdicts, self.differences, strict=True)
        for number, (verdict, difference) in enumerate(results, 1):
            yield number, verdict, difference


def verdict(difference: int, tolerance: int) -> str:
    """One of ``VERDICTS``."""
    if difference == 0:
        return "identical"
    return "within tolerance" if difference <= tolerance else "different"


def largest_difference(original: bytes, drawn: Path) -> int:
    """The largest difference of two pictures in any pixel and channel, 0 to 255."""
    import numpy as np

    try:
        before = np.asarray(images.read(original).image, int)
    except PictureError as error:
        raise BundleError(
            f"The bundle's {drawn.name} is no whole PNG ({error.reason}): get the bundle again."
        ) from error
    now = np.asarray(images.read(drawn).image, int)
    return int(np.abs(before - now).max()) if before.shape == now.shape else 255
