"""Pictures of ComfyUI: from the saved picture back along the links to its sampler and the texts."""

import re
from collections.abc import Iterator

from storyboard.errors import SettingsError
from storyboard.other_tools import comfyui_syntax, prompt_syntax
from storyboard.other_tools.comfyui_conditioning import Prompt, prompt_of
from storyboard.other_tools.comfyui_graph import Graph, Node, is_link
from storyboard.other_tools.infotext import Infotext, cleaned, parsed_json, text, whole_number

MAX_OUTPUTS = 64  # of one graph, that are looked at
SAVES = re.compile(
    r"save.*(?:image|video|webp|webm|anim|gif)|image.*sav|videocombine", re.IGNORECASE
)
SHOWS = re.compile(r"preview|show.*image|image.*output", re.IGNORECASE)
RUNS = ("seed", "noise_seed", "noise", "steps", "sigmas")  # inputs of a sampler
CONDITIONED = re.compile(
    r"positive|guider|conditioning|cond|\w*_?embeds|pipe|\w+_pipe|pipeline", re.IGNORECASE
)
REPAIRS = re.compile(r"detailer|upscale|inpaint", re.IGNORECASE)  # samplers of parts of a picture
FOLLOWED_FOR_STEPS = ("sigmas", "sampler", "guider", "noise")  # nodes that hold a sampler's facts
FACTS = ("steps", "cfg", "sampler_name", "scheduler", "denoise", "guidance")
EMBEDDING = re.compile(r"embedding:[\w.\-/\\]{1,200}")
EMPTY = re.compile(r"\([\s,]{0,4}(?::[\d.]{1,9})?\)")  # brackets that nothing is left in
# Inputs of nodes behind the picture that make another picture than the prompt alone
EXTRAS = {
    "lora_name": "the LoRA {}",
    "control_net_name": "the ControlNet {}",
    "hypernetwork_name": "the hypernetwork {}",
    "ipadapter_file": "the IP-Adapter {}",
    "style_model_name": "the style model {}",
    "stop_at_clip_layer": "clip skip ({})",
}
MODELS = ("ckpt_name", "unet_name", "model_name")


def read(content: str, size: tuple[int, int], stem: str) -> Infotext:
    """What the graph in the text ``prompt`` says of the picture.

    The panel is the sampler that the picture's links lead to first, of those that have words and
    begin with noise of their own.

    Args:
        size: Of the picture, and ``stem`` of its file: they tell which of several outputs it is.

    Raises:
        SettingsError: It is damaged, saves no picture, or has no prompt.
    """
    graph = Graph.of(parsed_json(content, "prompt"))
    behind = _behind_picture(graph, size, stem)
    samplers = [node for node in behind if _is_sampler(node)]
    if not samplers:
        kinds = ", ".join(dict.fromkeys(node.kind for node in behind))
        raise SettingsError(
            f"its ComfyUI graph has no sampler with a prompt behind the picture ({kinds:.100})."
        )

    prompts = {node.number: prompt_of(graph, node, "positive") for node in samplers[:MAX_OUTPUTS]}
    sampler = _panel(graph, samplers[:MAX_OUTPUTS], prompts)
    prompt, notes = _read(prompts[sampler.number])
    negative, more = _read(prompt_of(graph, sampler, "negative"))
    if negative == prompt:
        negative = ""  # instructions for pictures, of which the negative one lacks the picture
    settings = _facts(graph, sampler)
    names = [name for node in behind for name in map(node.inputs.get, MODELS) if name]
    if names and isinstance(names[-1], str):
        settings["model"] = names[-1]
    if others := [_summary(graph, prompts, each) for each in samplers[:9] if each is not sampler]:
        settings["other samplers"] = others
        notes.append(f"{len(others)} further sampler(s) had a part in it (other samplers)")
    return Infotext(
        prompt=prompt,
        negative_prompt=negative,
        seed=_seed(graph, sampler),
        settings=settings,
        tool="ComfyUI",
        notes=tuple(dict.fromkeys([*notes, *more, *graph.notes, *_extras(behind)])),
    )


def _behind_picture(graph: Graph, size: tuple[int, int], stem: str) -> list[Node]:
    """The nodes behind the output that saved this picture, nearest first.

    Of several it is the one whose prefix the file's name has, or whose size is the picture's; else
    the one with the most nodes behind it.
    """
    outputs = [node for node in graph.nodes.values() if SAVES.search(node.kind[:100])]
    outputs = outputs or [node for node in graph.nodes.values() if SHOWS.search(node.kind[:100])]
    outputs = outputs or _ends(graph)
    behind = [_behind(graph, node) for node in outputs[:MAX_OUTPUTS]]
    behind = [nodes for nodes in behind if any(map(_is_sampler, nodes))] or behind
    if not behind:
        raise SettingsError("its ComfyUI graph has no node that saves a picture.")
    if len(behind) > 1:
        rest = [
            nodes for nodes in behind if _prefix(nodes[0]) and stem.startswith(_prefix(nodes[0]))
        ]
        longest = max((len(_prefix(nodes[0])) for nodes in rest), default=0)
        rest = [nodes for nodes in rest if len(_prefix(nodes[0])) == longest] or behind
        rest = [nodes for nodes in rest if _size(nodes) == size] or rest
        if len(rest) > 1:
            graph.note(
                f"its ComfyUI graph saves {len(behind)} pictures, and neither name nor size tells "
                "which this is: read as the one with the most nodes"
            )
        behind = rest
    return max(behind, key=len)


def _ends(graph: Graph) -> list[Node]:
    """Nodes that have links and that no link leads to."""
    targets = {target.number for node in graph.nodes.values() for _, target in graph.links(node)}
    return [
        node
        for node in graph.nodes.values()
        if node.number not in targets and any(map(is_link, node.inputs.values()))
    ]


def _prefix(node: Node) -> str:
    """How the file name begins that an output gives."""
    prefix = node.inputs.get("filename_prefix")
    return prefix.rpartition("/")[2] if isinstance(prefix, str) else ""


def _size(nodes: list[Node]) -> tuple[object, object] | None:
    """The size that the nearest node which names one gives."""
    sizes = ((node.inputs.get("width"), node.inputs.get("height")) for node in nodes)
    return next((each for each in sizes if all(type(side) is int for side in each)), None)


def _behind(graph: Graph, output: Node) -> list[Node]:
    """All nodes that ``output`` depends on, itself among them, breadth first."""
    nodes = {output.number: output}
    queue = [output]
    for node in queue:
        for _, target in graph.links(node):
            if target.number not in nodes:
                nodes[target.number] = target
                queue.append(target)
    return queue


def _is_sampler(node: Node) -> bool:
    conditioned = any(CONDITIONED.fullmatch(name) for name in node.inputs)
    return conditioned and any(name in node.inputs for name in RUNS)


def _panel(graph: Graph, samplers: list[Node], prompts: dict[str, Prompt]) -> Node:
    """The first sampler of a whole picture that has words and begins with noise of its own."""
    with_words = [node for node in samplers if prompts[node.number].text.strip()]
    if not with_words:
        unknown = [prompts[node.number].made_by for node in samplers]
        made_by = next(filter(None, unknown), None)
        reason = (
            f"the node {made_by:.60} makes it as the graph runs"
            if made_by
            else "it was made from a picture or from nothing"
        )
        raise SettingsError(f"its ComfyUI graph has no prompt in words: {reason}.")
    begins = [node for node in with_words if _has_noise(graph, node)] or with_words
    return next((node for node in begins if not REPAIRS.search(node.kind[:100])), begins[0])


def _has_noise(graph: Graph, sampler: Node) -> bool:
    noise = graph.linked(sampler.inputs.get("noise"))
    is_off = sampler.inputs.get("add_noise") in ("disable", False)
    return not is_off and not (noise and "disable" in noise[0].kind.lower())


def _read(prompt: Prompt) -> tuple[str, list[str]]:
    """A prompt of ComfyUI in a story's syntax, and what it cannot say."""
    notes = list(prompt.notes)
    words, tags = prompt_syntax.without_tags(text(prompt.text, "prompt"))
    embeddings = list(dict.fromkeys(EMBEDDING.findall(words)))
    if embeddings:
        notes.append(f"{', '.join(embeddings[:4])} names an embedding: taken out of the prompt")
        words = EMPTY.sub("", EMBEDDING.sub("", words))
    return comfyui_syntax.kept_or_from_clip(words).strip(), notes + tags


def _seed(graph: Graph, sampler: Node) -> int | None:
    names = [name for name in ("noise_seed", "seed", "noise") if name in sampler.inputs]
    for name in names:
        value = sampler.inputs[name]
        number = graph.number(value)
        if number is None and is_link(value):
            target = graph.linked(value)
            kind = target[0].kind if target else "a node that is missing"
            graph.note(f"its seed comes from {kind:.60} as the graph runs, and is not known")
        where = f"{name} of node {sampler.number} ({sampler.kind:.60}) of its ComfyUI graph"
        return whole_number(number, where)
    return None


def _facts(graph: Graph, sampler: Node) -> dict[str, object]:
    """Steps, sampler and so on, from the sampler and from the nodes that hold them for it."""
    facts: dict[str, object] = {}
    for node in _holders(graph, sampler):
        for name in FACTS:
            value = graph.number(node.inputs.get(name))
            if isinstance(value, str | int | float) and name not in facts:
                facts[name] = value
    by_class = graph.linked(sampler.inputs.get("sampler"))
    if by_class and "sampler_name" not in facts:
        facts["sampler_name"] = by_class[0].kind
    return facts


def _holders(graph: Graph, sampler: Node) -> Iterator[Node]:
    nodes, queue = {sampler.number}, [sampler]
    for node in queue:
        yield node
        for name, target in graph.links(node):
            is_fact = name in FOLLOWED_FOR_STEPS or "guidance" in target.kind.lower()
            if is_fact and target.number not in nodes:
                nodes.add(target.number)
                queue.append(target)


def _summary(graph: Graph, prompts: dict[str, Prompt], sampler: Node) -> dict[str, object]:
    prompt = prompts.get(sampler.number)
    words = cleaned(prompt.text) if prompt else ""
    negative = cleaned(prompt_of(graph, sampler, "negative").text)
    return {"prompt": words, "negative_prompt": negative, "seed": _seed(graph, sampler)} | _facts(
        graph, sampler
    )


def _extras(behind: list[Node]) -> Iterator[str]:
    """What nodes behind the picture add to it."""
    for node in behind:
        for name, words in EXTRAS.items():
            value = node.inputs.get(name)
            if isinstance(value, str | int) and value not in ("", "None", -1):
                yield f"{words.format(f'{value!s:.80}')} had a part in it and is not in a story"
        for value in node.inputs.values():
            if isinstance(value, dict) and value.get("on") and isinstance(value.get("lora"), str):
                yield f"the LoRA {value['lora']:.80} had a part in it and is not in a story"
        if node.kind == "LoadImage":
            yield "a picture was loaded for it, to start from or to follow, which is not in a story"
