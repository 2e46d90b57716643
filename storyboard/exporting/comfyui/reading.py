"""From a graph back to the story, whatever a person has edited in its values."""

import json
import re
from pathlib import Path

from PIL import Image

from storyboard.compat import pillow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import notes, references, schedule, text
from storyboard.exporting.comfyui.canvas import from_ui
from storyboard.exporting.comfyui.graph import LAST_STEP, LORA_FILE, SCHEDULERS, workflow
from storyboard.exporting.comfyui.nodes import is_prompt, node_type
from storyboard.exporting.comfyui.numbers import Part, panel_node, shared_nodes
from storyboard.exporting.comfyui.panel import refusal
from storyboard.exporting.comfyui.text import CLIP_LENGTH
from storyboard.models import families
from storyboard.models.families import Family
from storyboard.other_tools import comfyui_syntax as syntax
from storyboard.other_tools.infotext import MAX_TEXT
from storyboard.records import TEXTS, BaseRecord, DrawnRecord, LoraRecord, PanelRecord
from storyboard.reference import Reference
from storyboard.story import Panel, Story

# What a file that is no graph of ours does to code that reads it as one
FOREIGN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
PYTHON_TYPES = {
    "COMBO": (str,),
    "STRING": (str,),
    "INT": (int,),
    "FLOAT": (int, float),
    "BOOLEAN": (bool,),
}


def read(graph: dict | Path | str) -> dict:
    """What ``workflow`` was given: ``workflow(**read(graph))`` is the graph again.

    Args:
        graph: Either form, a ``.json`` file or a panel's PNG.

    Raises:
        SettingsError: No such file, a panel that no graph can draw, or a graph that ``workflow``
            does not make; prompts, seeds, sizes, strength and file names may be edited.
    """
    name = "The graph" if isinstance(graph, dict) else str(graph)
    foreign = SettingsError(
        f"{name} is no graph that Storyboard made: give its workflow.json, workflow_api.json or "
        "panel-*.png, with nothing but values edited."
    )
    try:
        api = graph if isinstance(graph, dict) else _open(Path(graph).expanduser())
        api = from_ui(api) if "nodes" in api else api
        _check_nodes(api)
        family = _family(api)
    except (OSError, SyntaxError, Image.DecompressionBombError, *FOREIGN) as error:
        raise foreign from error

    if any(each["inputs"].get("add_noise") == "disable" for each in api.values()):
        raise SettingsError(
            f"{name} has two samplers a panel, as an earlier Storyboard wrote it: "
            "use save_workflow() again."
        )
    try:
        arguments = _arguments(api, family)
    except FOREIGN as error:
        raise foreign from error

    for number, panel in enumerate(arguments["pictures"], 1):
        if reason := refusal(panel):
            raise SettingsError(f"{name}: panel {number} {reason}.")
    if not arguments["pictures"]:
        raise foreign
    try:
        again = workflow(**arguments)["api"]
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    if _canonical(again) != _canonical(api):
        raise foreign
    return arguments


def read_story(graph: dict | Path | str) -> Story:
    """The panels of a graph with their prompts, negative prompts, seeds and references.

    References are looked for beside the file, or in the working folder. Argument and errors as
    ``read``.
    """
    folder = Path() if isinstance(graph, dict) else Path(graph).parent
    return Story(
        [
            Panel(panel.prompt, panel.negative_prompt, panel.seed, _reference(panel, folder))
            for panel in read(graph)["pictures"]
        ]
    )


def _reference(panel: PanelRecord, folder: Path) -> Reference | None:
    reference = panel.reference
    return reference and Reference(
        folder / reference.file,
        reference.control,
        reference.strength,
        reference.end,
        prepared=reference.control != "image",
    )


def _open(path: Path) -> dict:
    if not path.is_file():  # a pipe would wait for ever
        raise OSError("no file")
    if path.suffix.lower() != ".png":
        if path.stat().st_size > MAX_TEXT:
            raise ValueError("too long for a graph")
        return json.loads(path.read_text(encoding="utf-8"))
    with pillow.reading(), Image.open(path, formats=["PNG"]) as image:
        image.load()  # chunks may follow the pixels
        return json.loads(image.text["prompt"])


def _check_nodes(api: dict) -> None:
    """Raise one of ``FOREIGN`` unless every node is known and every input of the right type."""
    for number, each in api.items():
        int(number)
        kind = node_type(each["class_type"])
        if each["inputs"].keys() != kind.inputs.keys():
            raise ValueError(f"the inputs of node {number}")
        for name, type_ in kind.inputs.items():
            value = each["inputs"][name]
            if type_ in PYTHON_TYPES:
                right = type(value) in PYTHON_TYPES[type_]
            else:
                source, output = value
                right = node_type(api[source]["class_type"]).outputs[output] == type_
            if not right:
                raise ValueError(f"{name} of node {number}")


def _family(api: dict) -> Family:
    """The family that the title of the first node names; an earlier version named a pipeline."""
    title = api["1"]["_meta"]["title"]
    if match := re.fullmatch(r".+ \(family (.+)\)", title):
        return families.by_name(match[1])
    return families.by_pipeline(re.fullmatch(r".+ \((\w+)\)", title)[1])


def _arguments(api: dict, family: Family) -> dict:
    """The arguments of ``workflow`` that stand in a graph in API form."""
    numbers = shared_nodes(family)
    models = {
        name: value for number in family.comfyui.loaders for name, value in _inputs(api, number)
    }
    lora = api[numbers["lora"]]["inputs"] if numbers["lora"] in api else {}
    common = _common(api, family)
    count = sum(each["class_type"] == "SaveImage" for each in api.values())
    return {
        "pictures": [_panel(api, number, family, common) for number in range(1, count + 1)],
        "lora_name": lora.get("lora_name", LORA_FILE),
        "strength": lora.get("strength_model", 1.0),
        "strength_clip": lora.get("strength_clip"),
        "models": models | references.files(api, family),
    }


def _inputs(api: dict, number: str):
    return api[number]["inputs"].items()


def _common(api: dict, family: Family) -> dict:
    """What all panels of a graph share, as fields of ``PanelRecord``."""
    numbers, folder_loader = shared_nodes(family), family.comfyui.folder_loader
    base = {
        "name": re.fullmatch(r"(.+) \(.+?\)", api["1"]["_meta"]["title"])[1],
        "family": family.name,
        "pipeline": family.pipeline,
    }
    if folder_loader and api["1"]["class_type"] == folder_loader[0]:
        base["layout"] = "diffusers"
    if numbers["sampling"] in api:
        sampling = api[numbers["sampling"]]["inputs"]
        base["prediction_type"] = sampling["sampling"]
        base["zero_terminal_snr"] = sampling["zsnr"]

    common = {"base": BaseRecord(**base)}
    if numbers["lora"] in api:
        has_text_encoder = "strength_clip" in api[numbers["lora"]]["inputs"]
        common["lora"] = LoraRecord(text_encoder=has_text_encoder)
    if numbers["clip_layer"] in api:
        common["clip_skip"] = -api[numbers["clip_layer"]]["inputs"]["stop_at_clip_layer"]
    return common


def _panel(api: dict, number: int, family: Family, common: dict) -> PanelRecord:
    def inputs(part: Part) -> dict:
        return api[panel_node(number, part)]["inputs"]

    sampler = inputs(Part.SAMPLER)
    steps = sampler["steps"]
    if not 1 <= steps <= LAST_STEP:
        raise ValueError(f"{steps} steps")
    zero_terminal_snr = common["base"].zero_terminal_snr
    guidance_end = 1.0
    if panel_node(number, Part.GUIDED_NEGATIVE) in api:
        percent = inputs(Part.GUIDED_NEGATIVE)["end"]
        guidance_end = schedule.end_share(family.name, steps, percent, zero_terminal_snr)

    reference = references.read(api, number, family, zero_terminal_snr)
    from_picture = reference is not None and reference.control == "image"
    size = inputs(Part.REFERENCE if from_picture else Part.LATENTS)
    chunks = {name: text.read(api, number, name, family.comfyui) for name in TEXTS}
    schedule_types = {scheduler: name for name, scheduler in SCHEDULERS.items()}
    return PanelRecord(
        **common,
        prompt="".join(chunks["prompt"]),
        negative_prompt="".join(chunks["negative_prompt"]),
        seed=sampler["noise_seed" if from_picture else "seed"],
        width=size["width"],
        height=size["height"],
        steps=steps,
        guidance_scale=sampler["cfg"],
        guidance_end=guidance_end,
        schedule_type=schedule_types[sampler["scheduler"]],
        reference=reference,
        drawn=_drawn(chunks, notes.mentions_cut(api["1"]["_meta"].get("note", ""))),
    )


def _drawn(chunks: dict[str, list[str]], cut_elsewhere: bool) -> DrawnRecord | None:
    """How the graph draws a panel whose prompts are long, alone; None where they are not."""
    several = {name: tuple(parts) for name, parts in chunks.items() if len(parts) > 1}
    if cut_elsewhere:
        several = dict.fromkeys(TEXTS, ()) | several
    if not several:
        return None
    text_length = CLIP_LENGTH * max(2, *map(len, several.values()))
    return DrawnRecord(batch=1, row=0, text_length=text_length, vae_tiling=False, chunks=several)


def _canonical(api: dict) -> dict:
    """``api`` without titles, and every text in the one form that ``to_clip`` gives it."""
    canonical = {}
    for number, each in api.items():
        inputs = {
            name: _canonical_text(each["class_type"], name, value)
            for name, value in each["inputs"].items()
        }
        canonical[number] = {"class_type": each["class_type"], "inputs": inputs}
    return canonical


def _canonical_text(class_type: str, name: str, value: object) -> object:
    weighs_words = any(
        family.comfyui.weighs_words and family.comfyui.text[0] == class_type
        for family in families.known()
    )
    if weighs_words and is_prompt(class_type, name):
        return syntax.to_clip(syntax.from_clip(value))
    return value
