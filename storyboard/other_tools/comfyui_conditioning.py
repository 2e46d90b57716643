"""From a sampler of ComfyUI back to the words that its conditioning was encoded from."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from storyboard.other_tools.comfyui_graph import OTHER_LINKS, Graph, Node, check_depth, is_link

# Inputs of text encoders, in the order in which one is the prompt
ENCODED = (
    "text",
    "text_g",
    "t5xxl",
    "clip_g",
    "clip_l",
    "text_l",
    "llama",
    "bert",
    "mt5xl",
    "prompt",
    "caption",
    "tags",
    "populated_text",
    "string",
    "value",
)
# Those of encoders that take both prompts
BOTH = {
    "positive": ("positive_prompt", "text_positive", "positive", "prompt_positive"),
    "negative": ("negative_prompt", "text_negative", "negative", "prompt_negative"),
}
CONDITIONING = re.compile(
    r"conditioning\w*|cond1?|positive|cond_\w+|\w*embeds|basic_pipe|pipe|guider", re.IGNORECASE
)
UNCONDITIONING = re.compile(r"negative|uncond\w*|\w*embeds|basic_pipe|pipe|guider", re.IGNORECASE)
LIMITED = re.compile(r"area|mask|timesteprange|region", re.IGNORECASE)  # nodes that limit words
FOLLOWS = re.compile(
    r"controlnet|unclip|stylemodel|gligen|referencelatent|ipadapter|redux|instructpix|t2i",
    re.IGNORECASE,
)


@dataclass
class Prompt:
    """The words of a conditioning.

    Attributes:
        parts: Texts in order, each with whether an area, mask or share of the steps limits it.
        made_by: Class of a node that makes its text as the graph runs; None where none does.
        notes: What a story cannot say, a sentence each.
    """

    parts: list[tuple[str, bool]] = field(default_factory=list)
    made_by: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All parts, those first that nothing limits."""
        ordered = sorted(self.parts, key=lambda part: part[1])
        texts = [text.strip() for text, _ in ordered]
        return ", ".join(dict.fromkeys(text.strip(",") for text in texts if text))


def prompt_of(graph: Graph, sampler: Node, polarity: str) -> Prompt:
    """The words of ``sampler``'s ``"positive"`` or ``"negative"`` conditioning.

    Raises:
        SettingsError: The links go on without end.
    """
    prompt = Prompt()
    visited: set[tuple[str, str]] = set()
    for value in _sources(graph, sampler, polarity):
        _collect(graph, value, polarity, prompt, visited, limited=False, depth=0)
    if len(prompt.parts) > 1:
        limited = any(each for _, each in prompt.parts)
        what = "areas, masks or shares of the steps" if limited else "parts that are joined there"
        prompt.notes.append(f"its {polarity} prompt has {what}, here they are one prompt")
    return prompt


def _sources(graph: Graph, node: Node, polarity: str) -> Iterator[object]:
    """What a sampler, or a guider, takes its conditioning from."""
    if polarity in node.inputs:
        yield node.inputs[polarity]
        return
    pattern = CONDITIONING if polarity == "positive" else UNCONDITIONING
    for name, value in node.inputs.items():
        target = graph.linked(value)
        if target is None or not pattern.fullmatch(name):
            continue
        if name == "guider":
            yield from _sources_of_guider(graph, target[0], polarity)
        else:
            yield value


def _sources_of_guider(graph: Graph, guider: Node, polarity: str) -> Iterator[object]:
    pattern = CONDITIONING if polarity == "positive" else UNCONDITIONING
    for name, value in guider.inputs.items():
        if pattern.fullmatch(name) and name != "guider":
            yield value


def _collect(
    graph: Graph,
    value: object,
    polarity: str,
    prompt: Prompt,
    visited: set[tuple[str, str]],
    limited: bool,
    depth: int,
) -> None:
    """Add the texts that ``value`` leads to."""
    if isinstance(value, str):
        prompt.parts.append((value, limited))
        return
    target = graph.linked(value)
    if target is None:
        return
    check_depth(depth)
    node, output = target
    if {"positive", "negative"} <= node.inputs.keys() and is_link(node.inputs["positive"]):
        polarity = {0: "positive", 1: "negative"}.get(output, polarity)
    if (node.number, polarity) in visited or "ZeroOut" in node.kind:
        return
    visited.add((node.number, polarity))
    if FOLLOWS.search(node.kind[:100]):
        graph.note(f"the node {node.kind:.60} follows a picture, which is not in a story")
    if _encode(graph, node, polarity, prompt, limited):
        return
    limited = limited or bool(LIMITED.search(node.kind[:100]))
    for source in _further(graph, node, polarity):
        _collect(graph, source, polarity, prompt, visited, limited, depth + 1)


def _encode(graph: Graph, node: Node, polarity: str, prompt: Prompt, limited: bool) -> bool:
    """Add the words of ``node`` if it is a text encoder; returns whether it is one."""
    names = [name for name in BOTH[polarity] if name in node.inputs]
    if not names and any(name in node.inputs for each in BOTH.values() for name in each[:2]):
        names = [name for name in ("prompt",) if name in node.inputs and polarity == "positive"]
    elif not names:
        names = [name for name in ENCODED if name in node.inputs]
    if polarity in names and is_link(node.inputs[polarity]) and _carries_conditioning(node):
        return False
    if not names:
        return False
    texts = {name: graph.text(node.inputs[name]) for name in names}
    if all(text is None for text in texts.values()):
        prompt.made_by = _maker(graph, node, names[0])
        graph.note(f"a text of its {polarity} prompt is made by {prompt.made_by:.60}, not known")
        return True
    words = dict.fromkeys(text.strip() for text in texts.values() if text and text.strip())
    first, *others = words or [""]
    if others:
        graph.note(f"{node.kind:.60} has other words for its further text encoders: left out")
    prompt.parts.append((first, limited))
    return True


def _carries_conditioning(node: Node) -> bool:
    """Whether ``positive`` and ``negative`` of ``node`` are conditionings, as ControlNets take."""
    return all(
        is_link(node.inputs[name]) for name in ("positive", "negative") if name in node.inputs
    )


def _maker(graph: Graph, node: Node, name: str) -> str:
    target = graph.linked(node.inputs[name])
    return target[0].kind if target else node.kind


def _further(graph: Graph, node: Node, polarity: str) -> Iterator[object]:
    """The inputs of ``node`` that lead on to words."""
    if chosen := polarity if polarity in node.inputs else graph.chosen(node):
        yield node.inputs[chosen]
        return
    pattern = CONDITIONING if polarity == "positive" else UNCONDITIONING
    named = [
        name
        for name, _ in graph.links(node)
        if CONDITIONING.fullmatch(name) or pattern.fullmatch(name)
    ]
    if not named:
        named = [name for name, _ in graph.links(node) if not OTHER_LINKS.search(name)]
    for name in named:
        yield node.inputs[name]
