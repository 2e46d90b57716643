"""The YAML of a recipe, read within bounds: size, depth, and aliases counted as often as used.

PyYAML's safe loader builds no objects, but it takes any depth, lets the last of two equal keys win,
and shares what an alias repeats, which grows without bound when it is written out as JSON.
"""

import re
from pathlib import Path

import yaml

from storyboard.data.listing import read_text
from storyboard.errors import SettingsError

LARGEST_FILE = 200_000  # bytes; Data-Juicer's list of all its operators has half of that
LARGEST_CONTENT = 20_000  # keys and values
DEEPEST = 30
SHOWN = 300  # characters of PyYAML's own message

# YAML 1.1 reads 1:30 as 90 and 010 as 8, which nobody who writes a recipe means
BASE_60 = re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?")
OCTAL = re.compile(r"[-+]?0[0-7_]+")


def read(path: Path) -> object:
    """What the YAML file at ``path`` holds.

    Raises:
        SettingsError: It cannot be read, is not YAML, or is beyond the bounds above.
        DatasetError: It is not text.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingsError(
                f"{path} has over {LARGEST_FILE:,} bytes, which is no recipe: set recipe to one."
            )
        text = read_text(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror or error}).") from error

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(path).measure(node)
        return loader.construct_document(node)
    # ValueError: a date or a number that Python cannot hold
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())[:SHOWN]
        hint = ": write ':' and a space for '：'" if "：" in text else ""
        raise SettingsError(f"{path} is not YAML: {message}{hint}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader down to DEEPEST levels."""

    depth = 0

    def compose_node(self, parent, index):
        if self.depth == DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {mark.line + 1} is nested over {DEEPEST} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Check:
    """What a composed document holds beyond what a recipe may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.measured: dict[
            int, tuple[int, int]
        ] = {}  # by id of a node; (0, 0) while it is measured

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """How many values ``node`` comes to, and how deep it is, with aliases written out.

        Raises:
            SettingsError: Too many, too deep, or a node that holds itself; a key that stands twice;
                a number that YAML reads in another base.
        """
        if id(node) in self.measured:
            size, depth = self.measured[id(node)]
            if not size:
                raise self._error(node, "holds itself by an alias")
            return size, depth

        self.measured[id(node)] = (0, 0)
        children = []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            children = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.ScalarNode):
            self._check_number(node)

        sizes, depths = zip((1, 0), *map(self.measure, children), strict=True)
        size, depth = sum(sizes), 1 + max(depths)
        if size > LARGEST_CONTENT:
            raise self._error(node, f"comes to over {LARGEST_CONTENT:,} values")
        if depth > DEEPEST:
            raise self._error(node, f"is nested over {DEEPEST} levels deep")
        self.measured[id(node)] = (size, depth)
        return size, depth

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if not key.tag.endswith((":str", ":merge")):
                raise self._error(key, "has a name that is not text")
            if key.value in seen:
                raise self._error(key, f"names {_quoted(key)} a second time")
            seen.add(key.value)

    def _check_number(self, node: yaml.ScalarNode) -> None:
        if not node.tag.endswith((":int", ":float")):
            return
        if BASE_60.fullmatch(node.value):
            raise self._error(node, f"has {_quoted(node)}, which YAML reads as a number of base 60")
        if OCTAL.fullmatch(node.value):
            raise self._error(node, f"has {_quoted(node)}, which YAML reads as a number of base 8")

    def _error(self, node: yaml.Node, problem: str) -> SettingsError:
        line = node.start_mark.line + 1
        return SettingsError(f"Line {line} of {self.path} {problem}: correct it.")


def _quoted(node: yaml.ScalarNode) -> str:
    return repr(node.value[:80])
