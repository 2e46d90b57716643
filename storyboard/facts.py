"""What a cell shows in two columns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """``rows`` of (what, value)."""

    rows: list[tuple[str, str]]
    title: str = "This machine"

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join(f"  {name:<{width}} {value}" for name, value in self.rows)

    def _repr_html_(self) -> str:
        from storyboard import show  # needs Pillow, which the first cell may have to install

        return show.table(self.title, ["what", "found"], self.rows)
