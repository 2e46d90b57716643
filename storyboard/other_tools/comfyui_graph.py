"""ComfyUI's graph in API form: nodes, links, and what numbers and texts come out of links."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from storyboard.errors import SettingsError

MAX_NODES = 10_000
MAX_DEPTH = 100  # links that one fact is followed along
MAX_PROMPT = 1_000_000  # characters that text nodes may make
# Inputs that lead to no words
OTHER_LINKS = re.compile(
    r"model|clip|vae|image|pixels|mask|control_net|latent|samples|style_model|audio|noise|sigmas",
    re.IGNORECASE,
)
NUMBERS = ("seed", "noise_seed", "steps", "value", "int", "number", "Number", "Value")
TEXTS = (
    "populated_text",
    "text",
    "string",
    "value",
    "prompt",
    "Text",
    "String",
    "wildcard_text",
    "positive",
    "text_positive",
)
# of nodes that give both prompts, the positive one first
PAIRS = (
    ("text_positive", "text_negative"),
    ("positive_prompt", "negative_prompt"),
    ("positive", "negative"),
)
PART = re.compile(r"(?:string|text|prompt|str|input)_?(?:[a-z]|\d{1,3})", re.IGNORECASE)
DELIMITERS = ("delimiter", "separator", "concat_delimiter", "delim")
# Nodes that pass a text on or join several; what others do to it is not known
KNOWN_TEXT = re.compile(
    r"(?!.*(?:replace|regex|function|style|random|trim|slice|strip))"
    r".*(?:text|string|str\b|prompt|primitive|concat|reroute|wildcard|switch|note|value)",
    re.IGNORECASE | re.DOTALL,
)
# Nodes whose text a model makes as the graph runs
MADE_TEXT = re.compile(
    r"llm|gpt|gemini|claude|ollama|qwen.*vl|caption|describe|interrogat|tagger|florence|translat|"
    r"joycaption|enhanc",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Node:
    """A node: its number, class, and inputs, each a value or a link."""

    number: str
    kind: str
    inputs: Mapping[str, object]


@dataclass
class Graph:
    """The nodes of a graph by number.

    Attributes:
        notes: What was found on the way that a story cannot say, a sentence each.
    """

    nodes: dict[str, Node]
    notes: list[str] = field(default_factory=list)
    texts: dict[tuple[str, int], str | None] = field(default_factory=dict)  # as they are read

    @classmethod
    def of(cls, content: object) -> "Graph":
        """The graph in ``content``; what is no node is left out.

        Raises:
            SettingsError: There is no node, or there are too many.
        """
        if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
            content = content["prompt"]
        if not isinstance(content, dict):
            raise SettingsError("its ComfyUI graph (prompt) is no JSON object.")
        nodes = {}
        for number, each in content.items():
            if not isinstance(each, dict):
                continue
            kind, inputs = each.get("class_type"), each.get("inputs")
            if isinstance(kind, str) and isinstance(inputs, dict):
                nodes[str(number)] = Node(str(number), kind, inputs)
        if not nodes:
            raise SettingsError(
                "its ComfyUI graph (prompt) has no node with a class_type and inputs."
            )
        if len(nodes) > MAX_NODES:
            raise SettingsError(
                f"its ComfyUI graph has {len(nodes):,} nodes, more than the {MAX_NODES:,} that are "
                "read."
            )
        return cls(nodes)

    def linked(self, value: object) -> tuple[Node, int] | None:
        """The node that a link leads to and its output; None for what is no link, or leads away."""
        if not is_link(value):
            return None
        number, output = value
        node = self.nodes.get(str(number))
        return None if node is None else (node, output)

    def links(self, node: Node) -> Iterator[tuple[str, Node]]:
        """The inputs of ``node`` that are links, and where they lead."""
        for name, value in node.inputs.items():
            if target := self.linked(value):
                yield name, target[0]

    def note(self, sentence: str) -> None:
        """Keep ``sentence`` once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def number(self, value: object, depth: int = 0) -> object:
        """The number that ``value`` is or leads to; None where a node makes it as it runs."""
        while (target := self.linked(value)) and depth < MAX_DEPTH:
            depth += 1
            inputs = target[0].inputs
            names = [name for name in NUMBERS if name in inputs]
            links = [name for name, _ in self.links(target[0])]
            name = names[0] if names else links[0] if len(links) == 1 else None
            value = inputs[name] if name else None
        return None if is_link(value) else value

    def text(self, value: object, depth: int = 0) -> str | None:
        """The text that ``value`` is or leads to; None where a node makes it as the graph runs.

        Raises:
            SettingsError: The links go on without end, or the text grows without end.
        """
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:.20g}"
        target = self.linked(value)
        if target is None:
            return None
        check_depth(depth)
        node, output = target
        key = (node.number, output)
        if key not in self.texts:
            self.texts[key] = None  # for a link that leads back here
            self.texts[key] = self._text_of(node, output, depth + 1)
        return self.texts[key]

    def _text_of(self, node: Node, output: int, depth: int) -> str | None:
        if MADE_TEXT.search(node.kind[:100]):
            return None
        parts = sorted(filter(PART.fullmatch, node.inputs), key=_in_order)
        if chosen := _of_output(node, output) or self.chosen(node):
            result = self.text(node.inputs[chosen], depth)
        elif len(parts) > 1:
            texts = [self.text(node.inputs[name], depth) for name in parts]
            result = self._delimiter(node).join(text for text in texts if text)
        else:
            names = [*(name for name in TEXTS if name in node.inputs), *parts]
            names = names or [n for n, _ in self.links(node) if not OTHER_LINKS.search(n)][:1]
            found = (self.text(node.inputs[name], depth) for name in names)
            result = next((text for text in found if text is not None), None)
        result = self._replaced(node, result, depth)
        if result and len(result) > MAX_PROMPT:
            raise SettingsError(
                f"node {node.number} ({node.kind:.60}) of its ComfyUI graph makes a text of more "
                f"than {MAX_PROMPT:,} characters."
            )
        if result and not KNOWN_TEXT.match(node.kind[:100]) and "find" not in node.inputs:
            self.note(
                f"what the node {node.kind:.60} does to its text is not known: taken as it is"
            )
        return result

    def _replaced(self, node: Node, result: str | None, depth: int) -> str | None:
        """``result`` after a node that replaces words."""
        pair = [node.inputs.get(name) for name in ("find", "replace")]
        old, new = (self.text(each, depth) for each in pair)
        if not result or not old or new is None:
            return result
        if len(result) + result.count(old) * len(new) > MAX_PROMPT:
            raise SettingsError("its ComfyUI graph makes a text without end by replacing words.")
        return result.replace(old, new)

    def chosen(self, node: Node) -> str | None:
        """The input that a switch lets through; None for any other node."""
        number = node.inputs.get("select", node.inputs.get("index"))
        if type(number) is int:
            names = (
                f"{name}{number:.20g}" for name in ("input", "text", "text_", "string", "value")
            )
            return next((name for name in names if name in node.inputs), None)
        return None

    def _delimiter(self, node: Node) -> str:
        found = [node.inputs[name] for name in DELIMITERS if name in node.inputs]
        sign = found[0] if found and isinstance(found[0], str) else ""
        return sign.replace("\\n", "\n")


def is_link(value: object) -> bool:
    """Whether ``value`` is a link: a node's number and one of its outputs."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str | int)
        and type(value[1]) is int
    )


def check_depth(depth: int) -> None:
    """Raise SettingsError where links go further than any graph that people make."""
    if depth > MAX_DEPTH:
        raise SettingsError(
            f"its ComfyUI graph links more than {MAX_DEPTH} nodes one behind another, more than "
            "are read."
        )


def _in_order(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else 0, name)


def _of_output(node: Node, output: int) -> str | None:
    """The input that stands for an output of a node that gives both prompts."""
    pair = next((pair for pair in PAIRS if node.inputs.keys() >= set(pair)), None)
    return pair[min(abs(output), 1)] if pair else None
