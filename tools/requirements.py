"""Write requirements.txt from pyproject.toml: python -m tools.requirements"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "requirements.txt"
EXTRAS = ("notebook", "test")


def from_pyproject() -> str:
    """What the README's commands install: the dependencies, to run the notebook and the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        "# Written by `make requirements` from pyproject.toml, which says what each is for.",
        *project["dependencies"],
    ]
    for extra in EXTRAS:
        lines += ["", f"# {extra}", *project["optional-dependencies"][extra]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(from_pyproject(), encoding="utf-8")
