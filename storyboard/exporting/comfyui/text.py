"""A panel's prompts in a graph: a text node each, or one for each chunk that CLIP reads at once."""

from storyboard import prompts
from storyboard.exporting.comfyui.nodes import node
from storyboard.exporting.comfyui.numbers import Part, panel_node
from storyboard.exporting.comfyui.panel import family_of
from storyboard.models.families import ComfyNodes
from storyboard.other_tools import comfyui_syntax as syntax
from storyboard.records import PanelRecord

CLIP_LENGTH = 77  # tokens that CLIP reads at once
MOST_CHUNKS = 200  # numbers between FURTHER_PROMPT and FURTHER_NEGATIVE_PROMPT, two a chunk
FIRST = {"prompt": Part.PROMPT, "negative_prompt": Part.NEGATIVE_PROMPT}
FURTHER = {"prompt": Part.FURTHER_PROMPT, "negative_prompt": Part.FURTHER_NEGATIVE_PROMPT}


def build(number: int, panel: PanelRecord, name: str, clip: list) -> tuple[dict, list]:
    """The nodes that encode the prompt ``name`` of panel ``number``, and where to take it from.

    ``pooled`` is that of the first chunk, as in Storyboard: ConditioningConcat keeps that of what
    it appends to.
    """
    comfyui = family_of(panel).comfyui
    class_type, encoder, text = comfyui.text
    title = f"Panel {number}" if name == "prompt" else f"Panel {number}, negative"

    api, source = {}, []
    for index, chunk in enumerate(chunks(panel, name)):
        key, joined = _keys(number, name, index)
        words = syntax.to_clip(chunk) if comfyui.weighs_words else prompts.plain(chunk)
        api[key] = node(class_type, **{encoder: clip, text: words}) | {"_meta": {"title": title}}
        if index:
            api[joined] = node(
                "ConditioningConcat", conditioning_to=source, conditioning_from=[key, 0]
            )
        source = [joined if index else key, 0]

    is_empty = name == "negative_prompt" and not prompts.plain(panel.negative_prompt)
    if comfyui.empty_is_zero and is_empty:
        first = panel_node(number, Part.PROMPT)
        api[source[0]] |= node("ConditioningZeroOut", conditioning=[first, 0])
    return api, source


def read(api: dict, number: int, name: str, comfyui: ComfyNodes) -> list[str]:
    """The prompt ``name`` of panel ``number``, one entry a chunk; [""] where zeros stand for it."""
    first = api[panel_node(number, FIRST[name])]
    class_type, _, text = comfyui.text
    if first["class_type"] != class_type:
        return [""]
    if not comfyui.weighs_words:
        return [prompts.literal(first["inputs"][text])]
    keys = [_keys(number, name, index)[0] for index in range(MOST_CHUNKS)]
    return [syntax.from_clip(api[key]["inputs"][text]) for key in keys if key in api]


def chunks(panel: PanelRecord, name: str) -> tuple[str, ...]:
    """The prompt ``name`` of ``panel`` in the parts that the encoder reads one by one."""
    parts = panel.drawn.chunks if panel.drawn and panel.drawn.chunks else {}
    parts = parts.get(name, ())
    weighs_words = family_of(panel).comfyui.weighs_words
    if weighs_words and 1 < len(parts) <= MOST_CHUNKS:
        return parts
    return (getattr(panel, name),)


def cut_elsewhere(panel: PanelRecord, name: str) -> bool:
    """Whether ComfyUI may cut the prompt ``name`` elsewhere than Storyboard did."""
    if panel.drawn is None:
        return False
    if panel.drawn.chunks is None:  # of an earlier Storyboard, where the batch was long
        return panel.drawn.text_length > CLIP_LENGTH
    return name in panel.drawn.chunks and len(chunks(panel, name)) == 1


def _keys(number: int, name: str, chunk: int) -> tuple[str, str]:
    """Numbers of a chunk's text node and of the node that appends it to those before."""
    part = FURTHER[name] + 2 * chunk
    return panel_node(number, part if chunk else FIRST[name]), panel_node(number, part + 1)
