"""What tests read of a Markdown page: headings, anchors, links, code, numbers."""

import io
import re
import tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TABLE_ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
HAN = re.compile(r"[\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z_][\w.*/-]*")


@dataclass(frozen=True)
class Page:
    """A page by its path."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """All but the blocks of code."""
        return FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of each block of code."""
        return FENCE.findall(self.text)

    @property
    def levels(self) -> list[int]:
        return [len(signs) for signs, _ in HEADING.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """What links can point to, as GitHub makes it of headings."""
        return {slug(title) for _, title in HEADING.findall(self.prose)}

    @property
    def spans(self) -> list[str]:
        """Code within lines."""
        return SPAN.findall(self.prose)

    @property
    def links(self) -> list[str]:
        return LINK.findall(SPAN.sub("", self.prose))

    @property
    def numbers(self) -> Counter:
        """Numerals outside of code and links, as often as they stand there."""
        return Counter(NUMBER.findall(LINK.sub("]", SPAN.sub("", self.prose))))

    @property
    def rows(self) -> list[list[str]]:
        """Cells of every line of a table, its head and rule too."""
        return [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
            for line in TABLE_ROW.findall(self.prose)
        ]


def slug(title: str) -> str:
    """The anchor of a heading."""
    plain = LINK.sub("]", title).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def runnable(language: str, content: str) -> list[str]:
    """What of a block of code has to be equal in every language."""
    if language == "python":
        tokens = tokenize.generate_tokens(io.StringIO(content).readline)
        layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        return [each.string for each in tokens if each.type not in layout]
    if language:
        return [line for line in content.splitlines() if not line.startswith("#")]
    return WORD.findall(content)
