"""The story as a ComfyUI graph, in the form its server runs (API) and the form that opens by drag and drop (UI), and back."""

import json
import re
from pathlib import Path

from PIL import Image

from .. import artifacts
from ..bases.base import CLIP_LAYERS
from ..errors import SettingsError
from ..reference import Reference
from ..story import Panel, Story
from . import references
from .nodes import from_ui, node, to_ui

SAMPLER, SCHEDULERS = "dpmpp_2m", {"Karras": "karras", "Simple": "simple"}  # what rendering/drawing.py's scheduler() is called there
SAMPLING, CLIP_LAYER = "3", "4"  # numbers of nodes that follow the loaders of CLIP bases; Kolors has other loaders there
LORA_FILE = "lora.safetensors"
LAST_STEP = 10000  # KSamplerAdvanced: to the end
EXACT = 2**53  # JavaScript's integers are whole up to here
FILES = {  # as their publishers name them; a base of one's own goes by its name
    "sdxl": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
    "sd15": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"},
    "kolors": {"unet_name": "diffusion_pytorch_model.fp16.safetensors"},
}
KOLORS_FILES = {"chatglm3_checkpoint": "chatglm3-fp16.safetensors", "vae_name": "sdxl_vae.safetensors"}
NOTES = {
    "KolorsPipeline": "Needs the node pack ComfyUI-Kolors-MZ (https://github.com/MinusZoneAI/ComfyUI-Kolors-MZ). Kolors' UNet goes into models/unet, ChatGLM3 into models/LLM, SDXL's VAE into models/vae. 需要安装 ComfyUI-Kolors-MZ 节点。",
    "StableDiffusionXLPipeline": "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。",
    "StableDiffusionPipeline": "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。",
}
LORA_NOTE = "The LoRA, outputs/lora/lora.safetensors, goes into models/loras. LoRA 放入 models/loras。"
MINI_NOTE = "These pictures were drawn by mini, a small Kolors that no ComfyUI node loads: the graph opens, but runs only with Kolors and a LoRA trained on Kolors, and draws other pictures. mini 无法在 ComfyUI 中运行，请换用 Kolors。"
WEIGHTS_NOTE = "ComfyUI-Kolors-MZ reads weights such as (word:1.3) and [word] as plain words, which Storyboard does not: those pictures differ. ComfyUI-Kolors-MZ 把 (word:1.3)、[word] 之类的权重当作普通文字，这些画面会不同。"
CONTROL_NOTE = "Copy panel-*-reference.png from outputs/story into ComfyUI's input folder, and the weights of each ControlNet into models/controlnet under the name in its loader. 请把 outputs/story 里的 panel-*-reference.png 放入 ComfyUI 的 input 目录，把 ControlNet 权重按加载节点里的文件名放入 models/controlnet。"
SEEDS_NOTE = "A seed above 2^53 loses digits on ComfyUI's canvas: use workflow_api.json, or choose a smaller one. 大于 2^53 的种子在画布上会失真：请用 workflow_api.json，或换小一些的种子。"
V_NOTE = (
    "This base predicts v: ModelSamplingDiscrete tells it to ComfyUI, whose loader knows it by itself only of an SDXL file with the key v_pred. "
    "With zero terminal SNR and a number of steps that does not divide 1000, timesteps may differ by one. 本模型为 v-prediction，由 ModelSamplingDiscrete 节点告知 ComfyUI。"
)
STAGES_NOTE = "Guidance ends early, so each panel has two samplers; the second begins with a first-order step where Storyboard goes on with the second order: pictures differ a little."


def workflow(
    pictures, lora_name: str = LORA_FILE, strength: float = 1.0, models: dict[str, str] | None = None,
    strength_clip: float | None = None,
) -> dict[str, dict]:
    """``{"api": ..., "ui": ...}``: one graph that draws every panel with its own prompts, seed and size.

    Where ``guidance_end`` ends guidance before the last step, a panel is sampled in two stages, the second at cfg 1.

    Args:
        pictures: What ``render`` returned, or entries of its ``panels``.
        lora_name: File in ComfyUI's ``models/loras``; unused for pictures by the base alone.
        strength: Of the LoRA, -20 to 20; 1 is what the pictures were drawn with.
        models: Files by the loaders' input (``ckpt_name``; ``unet_name``, ``chatglm3_checkpoint``, ``vae_name``) and ControlNets' by what they
            follow (``edges``, ``depth``, ...); None takes those that the publishers offer, and for ControlNets such names as ``sdxl-edges.safetensors``.
        strength_clip: Of a LoRA's part for the text encoders; None takes ``strength``.

    Raises:
        SettingsError: No panel, panels of different bases, one that has a ``refusal``, or a strength that ComfyUI refuses.
    """
    panels = list(getattr(pictures, "panels", pictures))
    for place, panel in enumerate(panels, 1):
        if why := refusal(panel):
            raise SettingsError(f"Panel {place} {why}.")
    kinds = {
        (panel["base"], panel["pipeline"], bool(panel["lora"]), bool(panel["lora"] and panel.get("lora_text_encoder")))
        for panel in panels
    }
    if len(kinds) != 1 or len({_as_trained(panel) for panel in panels}) != 1:
        raise SettingsError(f"A workflow wants panels of one base and one LoRA, not {len(kinds)}: give what one call of render() returned.")
    strength_clip = strength if strength_clip is None else strength_clip
    for name, value in (("strength", strength), ("strength_clip", strength_clip)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -20 <= value <= 20:
            raise SettingsError(f"{name}={value!r} must be a number from -20 to 20.")
    base, pipeline, with_lora, with_text = kinds.pop()
    api, model, clip, vae = _loaders(base, pipeline, models)
    api |= references.loaders(panels, base, pipeline, models or {})
    if with_text:
        strengths = {"strength_model": float(strength), "strength_clip": float(strength_clip)}
        api["2"] = node("LoraLoader", model=model, clip=clip, lora_name=lora_name, **strengths)
        model, clip = ["2", 0], ["2", 1]
    elif with_lora:
        api["2"] = node("LoraLoaderModelOnly", model=model, lora_name=lora_name, strength_model=float(strength))
        model = ["2", 0]
    prediction, zero_terminal_snr, clip_skip = _as_trained(panels[0])
    if clip_skip:
        api[CLIP_LAYER] = node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-clip_skip)
        clip = [CLIP_LAYER, 0]
    if prediction == "v_prediction":
        api[SAMPLING] = node("ModelSamplingDiscrete", model=model, sampling=prediction, zsnr=zero_terminal_snr)
        model = [SAMPLING, 0]
    for place, panel in enumerate(panels, 1):
        api |= _panel(place, panel, model, clip, vae)
        if pipeline == "StableDiffusionXLPipeline" and not panel["negative_prompt"]:  # diffusers gives SDXL zeros then, not the empty prompt's embedding
            api[str(10 * place + 1)] |= node("ConditioningZeroOut", conditioning=[str(10 * place), 0])
    weighted = any(re.search(r"(?<!\\)(?:\\\\)*[(\[]", panel["prompt"] + "\n" + panel["negative_prompt"]) for panel in panels)  # also (word:1), whose brackets are read there
    notes = [
        NOTES[pipeline], LORA_NOTE if with_lora else "", MINI_NOTE if base == "mini" else "", V_NOTE if prediction == "v_prediction" else "", STAGES_NOTE if any(len(_stages(panel)) == 2 for panel in panels) else "",
        CONTROL_NOTE if any("reference" in panel for panel in panels) else "", WEIGHTS_NOTE if weighted and pipeline == "KolorsPipeline" else "", SEEDS_NOTE if any(panel["seed"] > EXACT for panel in panels) else "",
    ]
    api["1"]["_meta"] = {"title": f"{base} ({pipeline})", "note": "\n".join(note for note in notes if note)}
    return {"api": api, "ui": to_ui(api)}


def refusal(panel: dict) -> str:
    """Why no graph can draw this entry of ``panels``, and the mend; empty where one can."""
    if "heroine" in panel:
        return "is drawn with a heroine, for which ComfyUI itself has no node: draw the story without"
    if panel["pipeline"] == "KolorsPipeline" and _as_trained(panel)[0] != "epsilon":
        return "is drawn by a Kolors that predicts v, for which ComfyUI-Kolors-MZ has no node: it has no graph"
    if panel["pipeline"] == "KolorsPipeline" and any(re.search(r"\{[^{}]*\}", panel[name]) for name in ("prompt", "negative_prompt")):  # each goes into a node of its own
        return "has a pair of braces, among which ComfyUI-Kolors-MZ's text node draws lots: take them out of its prompts"
    return ""


def save_workflow(
    pictures, lora_name: str = LORA_FILE, strength: float = 1.0, models: dict[str, str] | None = None,
    strength_clip: float | None = None,
) -> Path:
    """Write ``workflow.json`` (drag it into ComfyUI) and ``workflow_api.json`` (for its server) beside the pictures; returns the first. Arguments as ``workflow``."""
    made = workflow(pictures, lora_name, strength, models, strength_clip)
    artifacts.write_json(pictures.folder / "workflow_api.json", made["api"])
    artifacts.write_json(pictures.folder / "workflow.json", made["ui"])
    return pictures.folder / "workflow.json"


def read(graph: dict | Path | str) -> dict:
    """What ``workflow`` was given, from either form, a ``.json`` file or a panel's PNG: ``workflow(**read(graph))`` is the graph again.

    Raises:
        SettingsError: No such file, a panel that has a ``refusal``, or a graph that ``workflow`` does not make; prompts, seeds, sizes, strength and file names may be edited.
    """
    name = "The graph" if isinstance(graph, dict) else str(graph)
    strange = SettingsError(f"{name} is no graph that Storyboard made: give its workflow.json, workflow_api.json or panel-*.png, with nothing but values edited.")
    try:
        graph = graph if isinstance(graph, dict) else _open(Path(graph))
        api = from_ui(graph) if "nodes" in graph else graph
        said = _said(api)
        refused = [f"{name}: panel {place} {why}." for place, panel in enumerate(said["pictures"], 1) if (why := refusal(panel))]
        again = {} if refused else workflow(**said)["api"]
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise strange from error
    if refused:
        raise SettingsError(refused[0])
    bare = lambda nodes: {key: {part: each[part] for part in ("class_type", "inputs")} for key, each in nodes.items()}
    if bare(again) != bare(api):
        raise strange
    return said


def read_story(graph: dict | Path | str) -> Story:
    """The panels of a graph with their prompts, negative prompts, seeds and references, these beside the file or in the working folder. Argument and errors as ``read``."""
    folder = Path() if isinstance(graph, dict) else Path(graph).parent
    return Story([Panel(panel["prompt"], panel["negative_prompt"], panel["seed"], _reference(panel, folder)) for panel in read(graph)["pictures"]])


def _reference(panel: dict, folder: Path) -> Reference | None:
    said = panel.get("reference")
    return said and Reference(folder / said["file"], said["control"], said["strength"], said.get("end", 1.0), prepared=said["control"] != "image")


def _open(path: Path) -> dict:
    if path.suffix.lower() != ".png":
        return json.loads(path.read_text(encoding="utf-8"))
    with Image.open(path) as image:
        return json.loads(image.text["prompt"])


def _loaders(base: str, pipeline: str, models: dict[str, str] | None) -> tuple[dict, list, list, list]:
    """Nodes, and where model, text encoder and VAE come from."""
    if pipeline == "KolorsPipeline":
        names = {"unet_name": f"{base}.safetensors"} | KOLORS_FILES | FILES.get(base, {}) | (models or {})
        api = {
            "1": node("MZ_KolorsUNETLoaderV2", unet_name=names["unet_name"]),
            "3": node("MZ_ChatGLM3Loader", chatglm3_checkpoint=names["chatglm3_checkpoint"]),
            "4": node("VAELoader", vae_name=names["vae_name"]),
        }
        return api, ["1", 0], ["3", 0], ["4", 0]
    names = {"ckpt_name": f"{base}.safetensors"} | FILES.get(base, {}) | (models or {})
    return {"1": node("CheckpointLoaderSimple", ckpt_name=names["ckpt_name"])}, ["1", 0], ["1", 1], ["1", 2]


def _as_trained(panel: dict) -> tuple[str, bool, int]:
    """What the base predicts, whether to zero terminal SNR, and the layer of CLIP that is read, 0 for its usual one."""
    clip_skip = panel.get("clip_skip") or 0
    usual = clip_skip <= CLIP_LAYERS.get(panel["pipeline"], 0)
    return panel.get("prediction_type", "epsilon"), panel.get("zero_terminal_snr", False), 0 if usual else clip_skip


def _panel(place: int, panel: dict, model: list, clip: list, vae: list) -> dict:
    """The nodes of one panel: ``10 * place`` and those that follow."""
    prompt, negative, latents, first, second, decoded, saved = (str(10 * place + part) for part in range(7))
    encode = (lambda text: node("MZ_ChatGLM3_V2", chatglm3_model=clip, text=text)) if clip == ["3", 0] else (lambda text: node("CLIPTextEncode", clip=clip, text=text))
    api = {
        prompt: encode(panel["prompt"]), negative: encode(panel["negative_prompt"]),
        latents: node("EmptyLatentImage", width=panel["width"], height=panel["height"], batch_size=1),
    }
    positive, without = [prompt, 0], [negative, 0]
    if "reference" in panel:
        further, positive, without = references.nodes(place, panel, positive, without, vae)
        api |= further
    common = {"model": model, "steps": panel["steps"], "sampler_name": SAMPLER, "scheduler": SCHEDULERS[panel.get("schedule_type", "Karras")], "positive": positive, "negative": without}
    stages = _stages(panel)
    if stages == [(0, LAST_STEP, stages[0][2])] and api[latents]["class_type"] == "EmptyLatentImage":
        api[first] = node("KSampler", **common, seed=panel["seed"], cfg=stages[0][2], latent_image=[latents, 0], denoise=1.0)
    else:
        for key, source, add, (start, end, cfg) in zip((first, second), (latents, first), ("enable", "disable"), stages):
            api[key] = node(
                "KSamplerAdvanced", **common, add_noise=add, noise_seed=panel["seed"], cfg=cfg, latent_image=[source, 0], start_at_step=start, end_at_step=end,
                return_with_leftover_noise="disable" if end == LAST_STEP else "enable",
            )
    api[decoded] = node("VAEDecode", samples=[second if second in api else first, 0], vae=vae)
    api[saved] = node("SaveImage", images=[decoded, 0], filename_prefix=f"panel-{place}")
    for key in (prompt, negative):
        api[key]["_meta"] = {"title": f"Panel {place}" if key == prompt else f"Panel {place}, negative"}
    return api


def _stages(panel: dict) -> list[tuple[int, int, float]]:
    """First step, last step and cfg of each sampler: two where guidance ends on the way."""
    steps, cfg, start = panel["steps"], float(panel["guidance_scale"]), references.first_step(panel)
    last = round(steps * panel.get("guidance_end", 1.0))  # as rendering/drawing.py counts
    if start < last < steps:
        return [(start, last, cfg), (last, LAST_STEP, 1.0)]
    return [(start, LAST_STEP, cfg if last > start else 1.0)]


def _said(api: dict) -> dict:
    """The arguments of ``workflow`` that stand in a graph in API form."""
    base, pipeline = re.fullmatch(r"(.+) \((\w+)\)", api["1"]["_meta"]["title"]).groups()
    sampling, clip_layer = (api.get(key, {}) if pipeline != "KolorsPipeline" else {} for key in (SAMPLING, CLIP_LAYER))
    loaders = ["1"] if pipeline != "KolorsPipeline" else ["1", "3", "4"]
    models = {name: api[key]["inputs"][name] for key in loaders for name in api[key]["inputs"]} | references.files(api)
    schedules = {scheduler: name for name, scheduler in SCHEDULERS.items()}
    trained = {"clip_skip": -clip_layer["inputs"]["stop_at_clip_layer"]} if clip_layer else {}
    if sampling:
        trained |= {"prediction_type": sampling["inputs"]["sampling"], "zero_terminal_snr": sampling["inputs"]["zsnr"]}
    lora = api["2"]["inputs"] if "2" in api else {"lora_name": LORA_FILE, "strength_model": 1.0}
    text = {"lora_text_encoder": True} if "strength_clip" in lora else {}
    panels = []
    for place in range(1, 1 + sum(each["class_type"] == "SaveImage" for each in api.values())):
        at = lambda part: api[str(10 * place + part)]["inputs"]
        sampler, size = at(3), at(2) if "width" in at(2) else at(references.APPLIED)
        panels.append({
            "prompt": at(0)["text"], "negative_prompt": at(1).get("text", ""), "seed": sampler["seed"] if "seed" in sampler else sampler["noise_seed"],
            "width": size["width"], "height": size["height"], "steps": sampler["steps"], "guidance_scale": sampler["cfg"],
            "guidance_end": min(sampler.get("end_at_step", LAST_STEP), sampler["steps"]) / sampler["steps"],
            "schedule_type": schedules[sampler["scheduler"]], **trained,
            "base": base, "pipeline": pipeline, "lora": lora["lora_name"] if "2" in api else None, **text,
            **references.read(api, place, pipeline, trained.get("zero_terminal_snr", False)),
        })
    strengths = {"strength": lora["strength_model"], "strength_clip": lora.get("strength_clip")}
    return {"pictures": panels, "lora_name": lora["lora_name"], **strengths, "models": models}
