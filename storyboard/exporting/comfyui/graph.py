"""The graph that draws a story: ``workflow`` in both of ComfyUI's forms.

``api`` is what its server runs, ``ui`` what its page opens by drag and drop.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import notes, references, schedule, text
from storyboard.exporting.comfyui.canvas import to_ui
from storyboard.exporting.comfyui.nodes import node
from storyboard.exporting.comfyui.numbers import Part, panel_node, shared_nodes
from storyboard.exporting.comfyui.panel import (
    clip_layer,
    family_of,
    refusal,
    starts_from_picture,
)
from storyboard.models import bases
from storyboard.records import PanelRecord
from storyboard.rendering.pictures import Pictures
from storyboard.story import MAX_PANELS

# What rendering.sampling's scheduler is called in ComfyUI
SAMPLER = "dpmpp_2m"
SCHEDULERS = {"Karras": "karras", "Simple": "simple"}
LORA_FILE = "lora.safetensors"
LAST_STEP = 10000  # KSamplerAdvanced: to the end


def workflow(
    pictures: Pictures | Sequence[PanelRecord],
    lora_name: str = LORA_FILE,
    strength: float | None = None,
    models: Mapping[str, str] | None = None,
    strength_clip: float | None = None,
) -> dict[str, dict]:
    """``{"api": ..., "ui": ...}``: one graph that draws every panel with its own prompts and seed.

    Where ``guidance_end`` ends guidance before the last step, the negative is the positive itself
    from there on. A prompt that CLIP reads in chunks has a text node for each.

    Args:
        pictures: What ``render`` returned, or records of its ``panels``.
        lora_name: File in ComfyUI's ``models/loras``; unused for pictures by the base alone.
        strength: Of the LoRA, -20 to 20; None takes what the pictures were drawn with.
        models: Files by the loaders' input (``ckpt_name``; ``unet_name``, ``chatglm3_checkpoint``,
            ``vae_name``; ``model_path`` of a folder) and ControlNets' by what they follow
            (``edges``, ``depth``, ...); None takes those that the publishers offer, and for
            ControlNets such names as ``sdxl-edges.safetensors``.
        strength_clip: Of a LoRA's part for the text encoders; None takes ``strength``.

    Raises:
        SettingsError: No panel, panels of different bases, one that no graph can draw, or a
            strength that ComfyUI refuses.
    """
    panels = list(pictures.panels if isinstance(pictures, Pictures) else pictures)
    _check(panels)
    if strength is None:
        strength = panels[0].lora.strength if panels[0].lora else 1.0
    strength_clip = strength if strength_clip is None else strength_clip
    for name, value in (("strength", strength), ("strength_clip", strength_clip)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -20 <= value <= 20:
            raise SettingsError(f"{name}={value!r} must be a number from -20 to 20.")

    first, models = panels[0], models or {}
    api = _loaders(first, models)
    loads_folder = _folder_loader(first) is not None
    api |= references.loaders(panels, models)
    model, clip, vae = (list(source) for source in _sources(first))
    further, model, clip = _lora(first, lora_name, strength, strength_clip, model, clip)
    api |= further
    further, model, clip = _as_trained(first, model, clip)
    api |= further
    for number, panel in enumerate(panels, 1):
        api |= _panel(number, panel, model, clip, vae)

    api["1"]["_meta"] = {
        "title": f"{first.base.name} (family {first.base.family})",
        "note": notes.note(panels, loads_folder),
    }
    return {"api": api, "ui": to_ui(api)}


def save_workflow(
    pictures: Pictures,
    lora_name: str = LORA_FILE,
    strength: float | None = None,
    models: Mapping[str, str] | None = None,
    strength_clip: float | None = None,
) -> Path:
    """Write the graph beside the pictures; returns ``workflow.json``, which ComfyUI's page opens.

    ``workflow_api.json`` is for its server. Arguments and errors as ``workflow``.

    Raises:
        RenderingError: Pictures of another story were drawn over them.
    """
    pictures.check()
    graph = workflow(pictures, lora_name, strength, models, strength_clip)
    artifacts.write_json(pictures.folder / "workflow_api.json", graph["api"])
    artifacts.write_json(pictures.folder / "workflow.json", graph["ui"])
    return pictures.folder / "workflow.json"


def png_chunks(panel: PanelRecord) -> dict[str, str]:
    """A panel's graph for its PNG in both forms, as ComfyUI's SaveImage writes them.

    {} for a panel that no graph can draw.
    """
    if refusal(panel):
        return {}
    graph = workflow([panel])
    return {"prompt": json.dumps(graph["api"]), "workflow": json.dumps(graph["ui"])}


def _check(panels: Sequence[PanelRecord]) -> None:
    """Raise SettingsError unless one graph can draw all ``panels``."""
    for number, panel in enumerate(panels, 1):
        if reason := refusal(panel):
            raise SettingsError(f"Panel {number} {reason}.")
    same = {
        (
            panel.base.model_dump_json(exclude={"fingerprint"}),
            panel.lora and panel.lora.model_dump_json(exclude={"tensors_digest"}),
            clip_layer(panel),
        )
        for panel in panels
    }
    if len(same) != 1:
        raise SettingsError(
            "A workflow wants panels of one base, one LoRA and one clip_skip: "
            "give what one call of render() returned."
        )
    if len(panels) > MAX_PANELS:
        raise SettingsError(
            f"A workflow holds at most {MAX_PANELS} panels, not {len(panels)}: give it fewer."
        )


def _folder_loader(panel: PanelRecord) -> tuple[str, str] | None:
    """Class and input of the node that loads a folder in diffusers' layout, for such a base."""
    return family_of(panel).comfyui.folder_loader if panel.base.layout == "diffusers" else None


def _loaders(panel: PanelRecord, models: Mapping[str, str]) -> dict:
    """The nodes that load the base; an input that nobody names goes by the base's name."""
    comfyui = family_of(panel).comfyui
    kinds = dict(comfyui.loaders)
    files = dict(comfyui.files)
    if (loader := _folder_loader(panel)) is not None:
        kinds["1"] = loader
        files[loader[1]] = panel.base.name
    if panel.base.name in bases.names():
        files |= bases.get(panel.base.name).comfy_files
    files |= models
    return {
        number: node(class_type, **{name: files.get(name, f"{panel.base.name}.safetensors")})
        for number, (class_type, name) in kinds.items()
    }


def _sources(panel: PanelRecord) -> tuple[tuple[str, int], ...]:
    """Where the base's model, text encoder and VAE come from."""
    comfyui = family_of(panel).comfyui
    return comfyui.model, comfyui.clip, comfyui.vae


def _lora(
    panel: PanelRecord,
    lora_name: str,
    strength: float,
    strength_clip: float,
    model: list,
    clip: list,
) -> tuple[dict, list, list]:
    """The LoRA's loader, and where model and text encoder come from then."""
    if not panel.lora:
        return {}, model, clip
    number = shared_nodes(family_of(panel))["lora"]
    named = {"model": model, "lora_name": lora_name, "strength_model": float(strength)}
    if not panel.lora.text_encoder:
        return {number: node("LoraLoaderModelOnly", **named)}, [number, 0], clip
    named |= {"clip": clip, "strength_clip": float(strength_clip)}
    return {number: node("LoraLoader", **named)}, [number, 0], [number, 1]


def _as_trained(panel: PanelRecord, model: list, clip: list) -> tuple[dict, list, list]:
    """What tells ComfyUI of another layer of CLIP or another prediction than the usual one."""
    api, numbers = {}, shared_nodes(family_of(panel))
    if layer := clip_layer(panel):
        number = numbers["clip_layer"]
        api[number] = node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-layer)
        clip = [number, 0]
    if panel.base.prediction_type != "epsilon":
        number = numbers["sampling"]
        api[number] = node(
            "ModelSamplingDiscrete",
            model=model,
            sampling=panel.base.prediction_type,
            zsnr=panel.base.zero_terminal_snr,
        )
        model = [number, 0]
    return api, model, clip


def _panel(number: int, panel: PanelRecord, model: list, clip: list, vae: list) -> dict:
    """The nodes of panel ``number``."""
    api, positive = text.build(number, panel, "prompt", clip)
    further, negative = text.build(number, panel, "negative_prompt", clip)
    api |= further

    latents = panel_node(number, Part.LATENTS)
    size = {"width": panel.width, "height": panel.height}
    api[latents] = node("EmptyLatentImage", **size, batch_size=1)
    if panel.reference:
        further, positive, negative = references.build(number, panel, positive, negative, vae)
        api |= further

    first_step, guided = schedule.first_step(panel), schedule.guided_steps(panel)
    if first_step < guided < panel.steps:
        further, negative = _end_of_guidance(number, panel, positive, negative)
        api |= further

    sampled, decoded = (panel_node(number, part) for part in (Part.SAMPLER, Part.DECODED))
    api[sampled] = _sampler(
        panel, model=model, positive=positive, negative=negative, latent_image=[latents, 0]
    )
    api[decoded] = node("VAEDecode", samples=[sampled, 0], vae=vae)
    saved = node("SaveImage", images=[decoded, 0], filename_prefix=f"panel-{number}")
    return api | {panel_node(number, Part.SAVED): saved}


def _sampler(panel: PanelRecord, **sources: list) -> dict:
    """The sampler; from a later step where it starts from a picture."""
    first_step = schedule.first_step(panel)
    guided = schedule.guided_steps(panel) > first_step
    common = sources | {
        "steps": panel.steps,
        "cfg": float(panel.guidance_scale) if guided else 1.0,
        "sampler_name": SAMPLER,
        "scheduler": SCHEDULERS[panel.schedule_type],
    }
    if not starts_from_picture(panel):
        return node("KSampler", **common, seed=panel.seed, denoise=1.0)
    return node(
        "KSamplerAdvanced",
        **common,
        add_noise="enable",
        noise_seed=panel.seed,
        start_at_step=first_step,
        end_at_step=LAST_STEP,
        return_with_leftover_noise="disable",
    )


def _end_of_guidance(
    number: int, panel: PanelRecord, positive: list, negative: list
) -> tuple[dict, list]:
    """Nodes that end guidance, and where to take the negative from.

    It is the positive from there on, so that cfg changes nothing.
    """
    parts = (Part.GUIDED_NEGATIVE, Part.UNGUIDED_NEGATIVE, Part.NEGATIVE)
    guided, unguided, both = (panel_node(number, part) for part in parts)
    base = panel.base
    percents = schedule.end_percents(base.family, panel.steps, base.zero_terminal_snr)
    percent = percents[schedule.guided_steps(panel)]
    until = {"conditioning": negative, "start": 0.0, "end": percent}
    since = {"conditioning": positive, "start": percent, "end": 1.0}
    api = {
        guided: node("ConditioningSetTimestepRange", **until),
        unguided: node("ConditioningSetTimestepRange", **since),
        both: node("ConditioningCombine", conditioning_1=[guided, 0], conditioning_2=[unguided, 0]),
    }
    return api, [both, 0]
