"""The story as a ComfyUI graph, in the form its server runs (API) and the form that opens by drag and drop (UI), and back."""

import json
import re
from pathlib import Path

from PIL import Image

from storyboard import artifacts, prompts
from storyboard.errors import SettingsError
from storyboard.exporting import references, syntax
from storyboard.exporting.nodes import from_ui, key, node, to_ui
from storyboard.models import families
from storyboard.reference import Reference
from storyboard.story import MAX_PANELS, Panel, Story

SAMPLER, SCHEDULERS = (
    "dpmpp_2m",
    {"Karras": "karras", "Simple": "simple"},
)  # what rendering/drawing.py's scheduler() is called there
SAMPLING, CLIP_LAYER = (
    "3",
    "4",
)  # numbers of nodes that follow the loaders of CLIP bases; Kolors has other loaders there
LORA_FILE = "lora.safetensors"
LAST_STEP = 10000  # KSamplerAdvanced: to the end
# Numbers of a panel's nodes:
UNGUIDED = (
    10,
    11,
    12,
)  # where guidance ends early, the negative's range, the positive's, and both combined
FIRST = {"prompt": 0, "negative_prompt": 1}  # a prompt's first chunk
FURTHER = {"prompt": 100, "negative_prompt": 500}  # its next ones
MOST_CHUNKS = 200  # that fit between the two
CLIP_LENGTH = 77  # tokens that CLIP reads at once
EXACT = 2**53  # JavaScript's integers are whole up to here
FILES = {  # as their publishers name them; a base of one's own goes by its name
    "sdxl": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
    "sd15": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"},
    "kolors": {"unet_name": "diffusion_pytorch_model.fp16.safetensors"},
}
KOLORS_FILES = {
    "chatglm3_checkpoint": "chatglm3-fp16.safetensors",
    "vae_name": "sdxl_vae.safetensors",
}
NOTES = {
    "KolorsPipeline": "Needs the node pack ComfyUI-Kolors-MZ (https://github.com/MinusZoneAI/ComfyUI-Kolors-MZ). Kolors' UNet goes into models/unet, ChatGLM3 into models/LLM, SDXL's VAE into models/vae. The pack needs transformers 4: with 5 its text encoder ends in an error (pip install \"transformers<5\"). 需要安装 ComfyUI-Kolors-MZ 节点；该节点需要 transformers 4，在 5 上会报错。",
    "StableDiffusionXLPipeline": "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。",
    "StableDiffusionPipeline": "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。",
}
FOLDER_NOTE = (
    "The base is a folder in diffusers' layout: copy it, under the name in the loader, into models/diffusers. "
    "基础模型是 diffusers 目录：请按加载节点里的名字放入 models/diffusers。"
)
OTHER_LORA_NOTE = "The LoRA file that was given to render() goes into models/loras, under the name in the loader. 出图时用的 LoRA 文件请按加载节点里的名字放入 models/loras。"
LORA_NOTE = (
    "The LoRA, outputs/lora/lora.safetensors, goes into models/loras. LoRA 放入 models/loras。"
)
MINI_NOTE = "These pictures were drawn by mini, a small Kolors that no ComfyUI node loads: the graph opens, but runs only with Kolors and a LoRA trained on Kolors, and draws other pictures. mini 无法在 ComfyUI 中运行，请换用 Kolors。"
WEIGHTS_NOTE = (
    "ComfyUI-Kolors-MZ knows no weights: (word:1.3) and [word] stand here as plain words, those pictures differ, and "
    "the weights are not read back from this graph. ComfyUI-Kolors-MZ 不支持权重：(word:1.3)、[word] 在这里只是普通文字，这些画面会不同，也无法从此图读回权重。"
)
LIGHT_NOTE = (
    "Words that weigh less than 1 are masked by Storyboard and weakened by ComfyUI: those pictures differ. "
    "权重小于 1 的词，Storyboard 用遮罩，ComfyUI 则减弱：这些画面会不同。"
)
LONG_NOTE = (
    "A prompt is longer than CLIP reads at once, and where Storyboard cut it is not known or is within a word; "
    "ComfyUI cuts it after every 75 tokens: those pictures differ. "
    "有的提示词超出 CLIP 一次读取的长度，切分位置不明或在词中，ComfyUI 每 75 个 token 切一次：这些画面会不同。"
)
EARLY_NOTE = (
    "ComfyUI cannot end guidance or a ControlNet within the first steps of Kolors: where that was asked, they end "
    "after step {}. ComfyUI 无法在 Kolors 的最初几步内结束引导或 ControlNet：会在第 {} 步之后结束。"
)
CONTROL_NOTE = "Copy panel-*-reference.png from outputs/story into ComfyUI's input folder, and the weights of each ControlNet into models/controlnet under the name in its loader. 请把 outputs/story 里的 panel-*-reference.png 放入 ComfyUI 的 input 目录，把 ControlNet 权重按加载节点里的文件名放入 models/controlnet。"
SEEDS_NOTE = "A seed above 2^53 loses digits on ComfyUI's canvas: use workflow_api.json, or choose a smaller one. 大于 2^53 的种子在画布上会失真：请用 workflow_api.json，或换小一些的种子。"
V_NOTE = (
    "This base predicts v: ModelSamplingDiscrete tells it to ComfyUI, whose loader knows it by itself only of an SDXL file with the key v_pred. "
    "With zero terminal SNR and a number of steps that does not divide 1000, timesteps may differ by one. 本模型为 v-prediction，由 ModelSamplingDiscrete 节点告知 ComfyUI。"
)


def workflow(
    pictures,
    lora_name: str = LORA_FILE,
    strength: float = 1.0,
    models: dict[str, str] | None = None,
    strength_clip: float | None = None,
) -> dict[str, dict]:
    """``{"api": ..., "ui": ...}``: one graph that draws every panel with its own prompts, seed and size.

    Where ``guidance_end`` ends guidance before the last step, the negative is the positive itself from there on. A
    prompt that CLIP reads in chunks has a text node for each.

    Args:
        pictures: What ``render`` returned, or entries of its ``panels``.
        lora_name: File in ComfyUI's ``models/loras``; unused for pictures by the base alone.
        strength: Of the LoRA, -20 to 20; 1 is what the pictures were drawn with.
        models: Files by the loaders' input (``ckpt_name``; ``unet_name``, ``chatglm3_checkpoint``, ``vae_name``; ``model_path`` of a folder) and ControlNets' by what they
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
        (
            panel["base"],
            panel["pipeline"],
            bool(panel["lora"]),
            bool(panel["lora"] and panel.get("lora_text_encoder")),
            panel.get("layout") == "diffusers",
        )
        for panel in panels
    }
    if len(kinds) != 1 or len({_as_trained(panel) for panel in panels}) != 1:
        raise SettingsError(
            "A workflow wants panels of one base, one LoRA and one clip_skip: give what one call of render() returned."
        )
    if len(panels) > MAX_PANELS:
        raise SettingsError(
            f"A workflow holds at most {MAX_PANELS} panels, not {len(panels)}: give it fewer."
        )
    strength_clip = strength if strength_clip is None else strength_clip
    for name, value in (("strength", strength), ("strength_clip", strength_clip)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -20 <= value <= 20:
            raise SettingsError(f"{name}={value!r} must be a number from -20 to 20.")
    base, pipeline, with_lora, with_text, folder = kinds.pop()
    api, model, clip, vae = _loaders(base, pipeline, models, folder)
    api |= references.loaders(panels, base, pipeline, models or {})
    if with_text:
        strengths = {"strength_model": float(strength), "strength_clip": float(strength_clip)}
        api["2"] = node("LoraLoader", model=model, clip=clip, lora_name=lora_name, **strengths)
        model, clip = ["2", 0], ["2", 1]
    elif with_lora:
        api["2"] = node(
            "LoraLoaderModelOnly", model=model, lora_name=lora_name, strength_model=float(strength)
        )
        model = ["2", 0]
    prediction, zero_terminal_snr, clip_skip = _as_trained(panels[0])
    if clip_skip:
        api[CLIP_LAYER] = node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-clip_skip)
        clip = [CLIP_LAYER, 0]
    if prediction == "v_prediction":
        api[SAMPLING] = node(
            "ModelSamplingDiscrete", model=model, sampling=prediction, zsnr=zero_terminal_snr
        )
        model = [SAMPLING, 0]
    for place, panel in enumerate(panels, 1):
        api |= _panel(place, panel, model, clip, vae)
        if pipeline == "StableDiffusionXLPipeline" and not prompts.plain(
            panel["negative_prompt"]
        ):  # diffusers gives SDXL zeros then, not the empty prompt's embedding
            api[str(10 * place + 1)] |= node(
                "ConditioningZeroOut", conditioning=[str(10 * place), 0]
            )
    told = [
        OTHER_LORA_NOTE if with_text else LORA_NOTE if with_lora else "",
        MINI_NOTE if base == "mini" else "",
        V_NOTE if prediction == "v_prediction" else "",
        *_notes(panels),
    ]
    first = FOLDER_NOTE if api["1"]["class_type"] == "DiffusersLoader" else NOTES[pipeline]
    api["1"]["_meta"] = {
        "title": f"{base} ({pipeline})",
        "note": "\n".join(note for note in (first, *told) if note),
    }
    return {"api": api, "ui": to_ui(api)}


def _notes(panels: list[dict]) -> list[str]:
    """What draws otherwise in ComfyUI, and what else these panels need there."""
    kolors = panels[0]["pipeline"] == "KolorsPipeline"
    weights = [
        weight for panel in panels for name in FIRST for _, weight in prompts.parse(panel[name])
    ]
    late = {step for panel in panels if (step := references.late_end(panel, _last_guided(panel)))}
    return [
        CONTROL_NOTE if any("reference" in panel for panel in panels) else "",
        WEIGHTS_NOTE if kolors and any(weight != 1 for weight in weights) else "",
        LIGHT_NOTE if not kolors and any(weight < 1 for weight in weights) else "",
        LONG_NOTE
        if not kolors and any(_cut_elsewhere(panel, name) for panel in panels for name in FIRST)
        else "",
        EARLY_NOTE.format(*[", ".join(map(str, sorted(late)))] * 2) if late else "",
        SEEDS_NOTE if any(panel["seed"] > EXACT for panel in panels) else "",
    ]


def _cut_elsewhere(panel: dict, name: str) -> bool:
    """May ComfyUI cut this prompt elsewhere than Storyboard did?"""
    if "chunks" in panel:
        return name in panel["chunks"] and len(_chunks(panel, name)) == 1
    return (
        panel.get("text_length", 0) > CLIP_LENGTH
    )  # drawn by an earlier Storyboard, beside a long prompt or with one


def _chunks(panel: dict, name: str) -> list[str]:
    """The prompt ``name`` of ``panel`` in the parts that CLIP reads one by one."""
    chunks = panel.get("chunks", {}).get(name, [])
    return chunks if 1 < len(chunks) <= MOST_CHUNKS else [panel[name]]


def refusal(panel: dict) -> str:
    """Why no graph can draw this entry of ``panels``, and the mend; empty where one can."""
    if "heroine" in panel:
        return (
            "is drawn with a heroine, for which ComfyUI itself has no node: draw the story without"
        )
    if panel["pipeline"] == "KolorsPipeline" and _as_trained(panel)[0] != "epsilon":
        return "is drawn by a Kolors that predicts v, for which ComfyUI-Kolors-MZ has no node: it has no graph"
    if panel["pipeline"] == "KolorsPipeline" and any(
        re.search(r"\{[^{}]*\}", panel[name]) for name in ("prompt", "negative_prompt")
    ):  # each goes into a node of its own
        return "has a pair of braces, among which ComfyUI-Kolors-MZ's text node chooses one at random: take them out of its prompts"
    return ""


def chunks(panel: dict) -> dict[str, str]:
    """A panel's graph for its PNG in both forms, as ComfyUI's SaveImage writes them; {} where it has a ``refusal``."""
    if refusal(panel):
        return {}
    graph = workflow([panel])
    return {"prompt": json.dumps(graph["api"]), "workflow": json.dumps(graph["ui"])}


def save_workflow(
    pictures,
    lora_name: str = LORA_FILE,
    strength: float = 1.0,
    models: dict[str, str] | None = None,
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
    strange = SettingsError(
        f"{name} is no graph that Storyboard made: give its workflow.json, workflow_api.json or panel-*.png, with nothing but values edited."
    )
    try:
        graph = graph if isinstance(graph, dict) else _open(Path(graph))
        api = from_ui(graph) if "nodes" in graph else graph
        if any(each["inputs"].get("add_noise") == "disable" for each in api.values()):
            refused = [
                f"{name} has two samplers a panel, as an earlier Storyboard wrote it: use save_workflow() again."
            ]
        else:
            said = _arguments(api)
            whys = [refusal(panel) for panel in said["pictures"]]
            refused = [f"{name}: panel {place} {why}." for place, why in enumerate(whys, 1) if why]
        again = {} if refused else workflow(**said)["api"]
    except (
        OSError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        SettingsError,
    ) as error:
        raise strange from error
    if refused:
        raise SettingsError(refused[0])
    if _bare(again) != _bare(api):
        raise strange
    return said


def _bare(api: dict) -> dict:
    """``api`` without titles, and every text for CLIP in the one form that ``to_clip`` gives it."""
    bare = {}
    for number, each in api.items():
        inputs = dict(each["inputs"])
        if each["class_type"] == "CLIPTextEncode":
            inputs["text"] = syntax.to_clip(syntax.from_clip(inputs["text"]))
        bare[number] = {"class_type": each["class_type"], "inputs": inputs}
    return bare


def read_story(graph: dict | Path | str) -> Story:
    """The panels of a graph with their prompts, negative prompts, seeds and references, these beside the file or in the working folder. Argument and errors as ``read``."""
    folder = Path() if isinstance(graph, dict) else Path(graph).parent
    return Story(
        [
            Panel(
                panel["prompt"], panel["negative_prompt"], panel["seed"], _reference(panel, folder)
            )
            for panel in read(graph)["pictures"]
        ]
    )


def _reference(panel: dict, folder: Path) -> Reference | None:
    said = panel.get("reference")
    return said and Reference(
        folder / said["file"],
        said["control"],
        said["strength"],
        said.get("end", 1.0),
        prepared=said["control"] != "image",
    )


def _open(path: Path) -> dict:
    if path.suffix.lower() != ".png":
        return json.loads(path.read_text(encoding="utf-8"))
    with Image.open(path) as image:
        return json.loads(image.text["prompt"])


def _loaders(
    base: str, pipeline: str, models: dict[str, str] | None, folder: bool
) -> tuple[dict, list, list, list]:
    """Nodes, and where model, text encoder and VAE come from."""
    if pipeline == "KolorsPipeline":
        names = (
            {"unet_name": f"{base}.safetensors"}
            | KOLORS_FILES
            | FILES.get(base, {})
            | (models or {})
        )
        api = {
            "1": node("MZ_KolorsUNETLoaderV2", unet_name=names["unet_name"]),
            "3": node("MZ_ChatGLM3Loader", chatglm3_checkpoint=names["chatglm3_checkpoint"]),
            "4": node("VAELoader", vae_name=names["vae_name"]),
        }
        return api, ["1", 0], ["3", 0], ["4", 0]
    names = (
        {"ckpt_name": f"{base}.safetensors", "model_path": base}
        | FILES.get(base, {})
        | (models or {})
    )
    kind, name = (
        ("DiffusersLoader", "model_path") if folder else ("CheckpointLoaderSimple", "ckpt_name")
    )
    return {"1": node(kind, **{name: names[name]})}, ["1", 0], ["1", 1], ["1", 2]


def _as_trained(panel: dict) -> tuple[str, bool, int]:
    """What the base predicts, whether to zero terminal SNR, and the layer of CLIP that is read, 0 for its usual one."""
    clip_skip = panel.get("clip_skip") or 0
    usual = clip_skip <= (families.by_pipeline(panel["pipeline"]).clip_layer or 0)
    return (
        panel.get("prediction_type", "epsilon"),
        panel.get("zero_terminal_snr", False),
        0 if usual else clip_skip,
    )


def _panel(place: int, panel: dict, model: list, clip: list, vae: list) -> dict:
    """The nodes of one panel, numbered by ``nodes.key``."""
    latents, first, decoded, saved = (key(place, part) for part in (2, 3, 5, 6))
    api, positive = _encoded(place, panel, "prompt", clip)
    further, negative = _encoded(place, panel, "negative_prompt", clip)
    api |= further | {
        latents: node(
            "EmptyLatentImage", width=panel["width"], height=panel["height"], batch_size=1
        )
    }
    if "reference" in panel:
        further, positive, negative = references.nodes(place, panel, positive, negative, vae)
        api |= further
    start, last = references.first_step(panel), _last_guided(panel)
    if start < last < panel["steps"]:
        further, negative = _unguided(place, panel, positive, negative)
        api |= further

    cfg = float(panel["guidance_scale"]) if last > start else 1.0
    common = {
        "model": model,
        "steps": panel["steps"],
        "cfg": cfg,
        "sampler_name": SAMPLER,
        "scheduler": SCHEDULERS[panel.get("schedule_type", "Karras")],
        "positive": positive,
        "negative": negative,
        "latent_image": [latents, 0],
    }
    if api[latents]["class_type"] == "EmptyLatentImage":
        api[first] = node("KSampler", **common, seed=panel["seed"], denoise=1.0)
    else:
        api[first] = node(
            "KSamplerAdvanced",
            **common,
            add_noise="enable",
            noise_seed=panel["seed"],
            start_at_step=start,
            end_at_step=LAST_STEP,
            return_with_leftover_noise="disable",
        )
    api[decoded] = node("VAEDecode", samples=[first, 0], vae=vae)
    api[saved] = node("SaveImage", images=[decoded, 0], filename_prefix=f"panel-{place}")
    return api


def _encoded(place: int, panel: dict, name: str, clip: list) -> tuple[dict, list]:
    """The nodes that encode the prompt ``name`` of ``panel``, one a chunk, and where its conditioning comes from.

    ``pooled`` is that of the first chunk, here as there: ConditioningConcat keeps that of what it appends to.
    """
    title = f"Panel {place}" if name == "prompt" else f"Panel {place}, negative"
    if panel["pipeline"] == "KolorsPipeline":
        number = key(place, FIRST[name])
        encode = node("MZ_ChatGLM3_V2", chatglm3_model=clip, text=prompts.plain(panel[name]))
        return {number: encode | {"_meta": {"title": title}}}, [number, 0]

    api, source = {}, []
    for index, chunk in enumerate(_chunks(panel, name)):
        number, joined = _chunk_keys(place, name, index)
        api[number] = node("CLIPTextEncode", clip=clip, text=syntax.to_clip(chunk)) | {
            "_meta": {"title": title}
        }
        if index:
            api[joined] = node(
                "ConditioningConcat", conditioning_to=source, conditioning_from=[number, 0]
            )
        source = [joined if index else number, 0]
    return api, source


def _chunk_keys(place: int, name: str, chunk: int) -> tuple[str, str]:
    """The numbers of a chunk's text node and of the node that appends it to those before."""
    part = FURTHER[name] + 2 * chunk
    return key(place, part if chunk else FIRST[name]), key(place, part + 1)


def _unguided(place: int, panel: dict, positive: list, negative: list) -> tuple[dict, list]:
    """Nodes that end guidance, and where the negative comes from: at last the positive, so that cfg changes nothing."""
    ranged, same, both = (key(place, part) for part in UNGUIDED)
    zero_terminal_snr = panel.get("zero_terminal_snr", False)
    percent = references.end_percents(panel["pipeline"], panel["steps"], zero_terminal_snr)[
        _last_guided(panel)
    ]
    api = {
        ranged: node("ConditioningSetTimestepRange", conditioning=negative, start=0.0, end=percent),
        same: node("ConditioningSetTimestepRange", conditioning=positive, start=percent, end=1.0),
        both: node("ConditioningCombine", conditioning_1=[ranged, 0], conditioning_2=[same, 0]),
    }
    return api, [both, 0]


def _last_guided(panel: dict) -> int:
    """How many steps have guidance, those that image-to-image leaves out among them, as rendering/drawing.py counts."""
    return round(panel["steps"] * panel.get("guidance_end", 1.0))


def _arguments(api: dict) -> dict:
    """The arguments of ``workflow`` that stand in a graph in API form."""
    base, pipeline = re.fullmatch(r"(.+) \((\w+)\)", api["1"]["_meta"]["title"]).groups()
    sampling, clip_layer = (
        api.get(key, {}) if pipeline != "KolorsPipeline" else {} for key in (SAMPLING, CLIP_LAYER)
    )
    loaders = ["1"] if pipeline != "KolorsPipeline" else ["1", "3", "4"]
    models = {
        name: api[key]["inputs"][name] for key in loaders for name in api[key]["inputs"]
    } | references.files(api)
    schedules = {scheduler: name for name, scheduler in SCHEDULERS.items()}
    trained = {"clip_skip": -clip_layer["inputs"]["stop_at_clip_layer"]} if clip_layer else {}
    if sampling:
        trained |= {
            "prediction_type": sampling["inputs"]["sampling"],
            "zero_terminal_snr": sampling["inputs"]["zsnr"],
        }
    zero_terminal_snr = trained.get("zero_terminal_snr", False)
    lora = api["2"]["inputs"] if "2" in api else {"lora_name": LORA_FILE, "strength_model": 1.0}
    text = {"lora_text_encoder": True} if "strength_clip" in lora else {}
    folder = {"layout": "diffusers"} if api["1"]["class_type"] == "DiffusersLoader" else {}
    panels = []
    for place in range(1, 1 + sum(each["class_type"] == "SaveImage" for each in api.values())):
        at = lambda part: api[key(place, part)]["inputs"]
        sampler, size = at(3), at(2) if "width" in at(2) else at(references.APPLIED)
        chunks = {name: _read_chunks(api, place, name) for name in FIRST}
        guidance_end = 1.0
        if key(place, UNGUIDED[0]) in api:
            guidance_end = references.share(
                pipeline, sampler["steps"], at(UNGUIDED[0])["end"], zero_terminal_snr
            )
        panels.append(
            {
                **{name: "".join(said) for name, said in chunks.items()},
                **folder,
                **trained,
                **text,
                **references.read(api, place, pipeline, zero_terminal_snr),
                "schedule_type": schedules[sampler["scheduler"]],
                "seed": sampler["seed"] if "seed" in sampler else sampler["noise_seed"],
                "width": size["width"],
                "height": size["height"],
                "steps": sampler["steps"],
                "guidance_scale": sampler["cfg"],
                "guidance_end": guidance_end,
                "base": base,
                "pipeline": pipeline,
                "lora": lora["lora_name"] if "2" in api else None,
            }
        )
        if LONG_NOTE in api["1"]["_meta"].get("note", ""):
            panels[-1]["text_length"] = (
                CLIP_LENGTH + 1
            )  # some prompt was cut elsewhere: its chunks are not known
        else:
            panels[-1]["chunks"] = {name: said for name, said in chunks.items() if len(said) > 1}
    strengths = {"strength": lora["strength_model"], "strength_clip": lora.get("strength_clip")}
    return {"pictures": panels, "lora_name": lora["lora_name"], **strengths, "models": models}


def _read_chunks(api: dict, place: int, name: str) -> list[str]:
    """The prompt ``name`` of panel ``place``, one entry for each chunk; [""] where zeros stand for it."""
    first = api[key(place, FIRST[name])]
    if first["class_type"] != "CLIPTextEncode":
        return [prompts.literal(first["inputs"].get("text", ""))]
    numbers = [_chunk_keys(place, name, chunk)[0] for chunk in range(MOST_CHUNKS)]
    return [syntax.from_clip(api[number]["inputs"]["text"]) for number in numbers if number in api]
