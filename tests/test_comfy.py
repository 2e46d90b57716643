import getpass
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from storyboard import Panel, Story, png, prompts, render, save_workflow, workflow
from storyboard.errors import SettingsError
from storyboard.exporting import comfy
from storyboard.lora import file as lora
from storyboard.models import bases, conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from storyboard.rendering import sampling

FILES = {
    "kolors": "KolorsPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd15": "StableDiffusionPipeline",
    "mini": "KolorsPipeline",
    "my base (v2)": "StableDiffusionPipeline",
}
# ComfyUI's nodes.py and ComfyUI-Kolors-MZ's __init__.py, read apart from the package: input -> type of a link, or Python type, lowest and highest; then outputs
SAMPLING = {
    "sampler_name": (str, {"dpmpp_2m"}),
    "scheduler": (str, {"karras", "simple"}),
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
}
LIST = {
    "CheckpointLoaderSimple": ({"ckpt_name": (str, None)}, ["MODEL", "CLIP", "VAE"]),
    "DiffusersLoader": ({"model_path": (str, None)}, ["MODEL", "CLIP", "VAE"]),
    "LoraLoaderModelOnly": (
        {"model": "MODEL", "lora_name": (str, None), "strength_model": (float, (-20, 20))},
        ["MODEL"],
    ),
    "LoraLoader": (
        {
            "model": "MODEL",
            "clip": "CLIP",
            "lora_name": (str, None),
            "strength_model": (float, (-20, 20)),
            "strength_clip": (float, (-20, 20)),
        },
        ["MODEL", "CLIP"],
    ),
    "ControlNetLoader": ({"control_net_name": (str, None)}, ["CONTROL_NET"]),
    "MZ_KolorsControlNetLoader": ({"control_net_name": (str, None)}, ["CONTROL_NET"]),
    "ControlNetApplyAdvanced": (
        {
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "control_net": "CONTROL_NET",
            "image": "IMAGE",
            "strength": (float, (0, 10)),
            "start_percent": (float, (0, 1)),
            "end_percent": (float, (0, 1)),
        },
        ["CONDITIONING", "CONDITIONING"],
    ),
    "LoadImage": ({"image": (str, None)}, ["IMAGE", "MASK"]),
    "ImageScale": (
        {
            "image": "IMAGE",
            "upscale_method": (str, {"nearest-exact", "bilinear", "area", "bicubic", "lanczos"}),
            "width": (int, (0, 16384)),
            "height": (int, (0, 16384)),
            "crop": (str, {"disabled", "center"}),
        },
        ["IMAGE"],
    ),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ["LATENT"]),
    "VAELoader": ({"vae_name": (str, None)}, ["VAE"]),
    "CLIPSetLastLayer": ({"clip": "CLIP", "stop_at_clip_layer": (int, (-24, -1))}, ["CLIP"]),
    "ModelSamplingDiscrete": (
        {
            "model": "MODEL",
            "sampling": (str, {"eps", "v_prediction", "lcm", "x0"}),
            "zsnr": (bool, None),
        },
        ["MODEL"],
    ),
    "CLIPTextEncode": ({"text": (str, None), "clip": "CLIP"}, ["CONDITIONING"]),
    "MZ_KolorsUNETLoaderV2": ({"unet_name": (str, None)}, ["MODEL"]),
    "MZ_ChatGLM3Loader": ({"chatglm3_checkpoint": (str, None)}, ["CHATGLM3MODEL"]),
    "MZ_ChatGLM3_V2": ({"chatglm3_model": "CHATGLM3MODEL", "text": (str, None)}, ["CONDITIONING"]),
    "ConditioningZeroOut": ({"conditioning": "CONDITIONING"}, ["CONDITIONING"]),
    "ConditioningConcat": (
        {"conditioning_to": "CONDITIONING", "conditioning_from": "CONDITIONING"},
        ["CONDITIONING"],
    ),
    "ConditioningCombine": (
        {"conditioning_1": "CONDITIONING", "conditioning_2": "CONDITIONING"},
        ["CONDITIONING"],
    ),
    "ConditioningSetTimestepRange": (
        {"conditioning": "CONDITIONING", "start": (float, (0, 1)), "end": (float, (0, 1))},
        ["CONDITIONING"],
    ),
    "EmptyLatentImage": (
        {"width": (int, (16, 16384)), "height": (int, (16, 16384)), "batch_size": (int, (1, 4096))},
        ["LATENT"],
    ),
    "KSampler": (
        {
            "model": "MODEL",
            "seed": (int, (0, 2**64 - 1)),
            "steps": (int, (1, 10000)),
            "cfg": (float, (0, 100)),
            **SAMPLING,
            "denoise": (float, (0, 1)),
        },
        ["LATENT"],
    ),
    "KSamplerAdvanced": (
        {
            "model": "MODEL",
            "add_noise": (str, {"enable", "disable"}),
            "noise_seed": (int, (0, 2**64 - 1)),
            "steps": (int, (1, 10000)),
            "cfg": (float, (0, 100)),
            **SAMPLING,
            "start_at_step": (int, (0, 10000)),
            "end_at_step": (int, (0, 10000)),
            "return_with_leftover_noise": (str, {"enable", "disable"}),
        },
        ["LATENT"],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": (str, None)}, []),
}


def fits(value, kind, allowed):
    return type(value) is kind and (
        allowed is None
        or (value in allowed if isinstance(allowed, set) else allowed[0] <= value <= allowed[1])
    )


def check_api(api):
    for node in api.values():
        inputs, _ = LIST[node["class_type"]]
        assert node["inputs"].keys() == inputs.keys()
        for name, kind in inputs.items():
            value = node["inputs"][name]
            if isinstance(kind, str):
                source, slot = value
                assert LIST[api[source]["class_type"]][1][slot] == kind
            else:
                assert fits(value, *kind), (node["class_type"], name, value)


def check_ui(ui):
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert (
        len(nodes) == len(ui["nodes"])
        and ui["last_node_id"] == max(nodes)
        and ui["last_link_id"] == max(link[0] for link in ui["links"])
    )
    assert len({tuple(node["pos"]) for node in ui["nodes"]}) == len(nodes)
    for number, source, output, target, slot, kind in ui["links"]:
        start, end = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert (
            number in start["links"]
            and end["link"] == number
            and start["type"] == end["type"] == kind
        )
    used = [
        number for node in ui["nodes"] for entry in node["outputs"] for number in entry["links"]
    ]
    assert sorted(used) == sorted(link[0] for link in ui["links"])
    for node in ui["nodes"]:
        if node["type"] == "Note":
            continue
        inputs, outputs = LIST[node["type"]]
        assert [(entry["name"], entry["type"]) for entry in node["inputs"]] == [
            (name, kind) for name, kind in inputs.items() if isinstance(kind, str)
        ]
        assert (
            all(entry["link"] is not None for entry in node["inputs"])
            and [entry["type"] for entry in node["outputs"]] == outputs
        )
        expected = [
            entry
            for name, kind in inputs.items()
            if not isinstance(kind, str)
            for entry in (
                [kind, (str, {"fixed"})]
                if name.endswith("seed")
                else [kind, (str, {"image"})]
                if name == "image"
                else [kind]
            )
        ]
        assert len(expected) == len(node["widgets_values"]) and all(
            fits(value, *kind) for value, kind in zip(node["widgets_values"], expected)
        )


def panels(base, guidance_end=1.0, lora="abc", count=8):
    common = {
        "base": base,
        "pipeline": FILES[base],
        "lora": lora,
        "width": 768,
        "height": 1024,
        "steps": 25,
        "guidance_scale": 5,
        "guidance_end": guidance_end,
    }
    return [
        common
        | {
            "prompt": f"紫色短发女孩 {place}",
            "negative_prompt": f"模糊 {place % 3}" if place else "",
            "seed": 7 + place,
        }
        for place in range(count)
    ]


@pytest.mark.parametrize("base", FILES)
@pytest.mark.parametrize("guidance_end", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("lora_digest", ["abc", None])
def test_comfy_forms_are_valid_and_come_back_the_same(base, guidance_end, lora_digest):
    made = workflow(panels(base, guidance_end, lora_digest), strength=0.8)
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        again = workflow(**comfy.read(json.loads(json.dumps(form))))
        assert json.dumps(again, sort_keys=True) == json.dumps(made, sort_keys=True)
        story = comfy.read_story(form)
        assert [(panel.prompt, panel.negative_prompt, panel.seed) for panel in story] == [
            (panel["prompt"], panel["negative_prompt"], panel["seed"]) for panel in panels(base)
        ]


def test_comfy_draws_each_panel_with_its_own_words_seed_and_lora():
    api = workflow(panels("sdxl"), "style.safetensors", 0.6, {"ckpt_name": "mine.safetensors"})[
        "api"
    ]
    saved = [node for node in api.values() if node["class_type"] == "SaveImage"]
    assert len(saved) == 8
    for place, node in enumerate(saved):
        follow = lambda node, name: api[node["inputs"][name][0]]
        sampler = follow(follow(node, "images"), "samples")
        assert (
            sampler["inputs"]["seed"] == 7 + place
            and sampler["inputs"]["sampler_name"] == "dpmpp_2m"
            and sampler["inputs"]["scheduler"] == "karras"
        )
        assert follow(sampler, "positive")["inputs"]["text"] == f"紫色短发女孩 {place}"
        assert (
            follow(sampler, "negative")["inputs"].get("text", "")
            == panels("sdxl")[place]["negative_prompt"]
        )
        assert follow(sampler, "latent_image")["inputs"] == {
            "width": 768,
            "height": 1024,
            "batch_size": 1,
        }
        lora_node = follow(sampler, "model")
        assert (
            lora_node["inputs"]["lora_name"] == "style.safetensors"
            and lora_node["inputs"]["strength_model"] == 0.6
        )
        assert follow(lora_node, "model")["inputs"] == {"ckpt_name": "mine.safetensors"}
    assert not any(
        "Lora" in node["class_type"] for node in workflow(panels("sdxl", lora=None))["api"].values()
    )


@pytest.mark.parametrize("base", ["sdxl", "sd15"])
def test_comfy_gives_the_text_encoders_part_of_a_lora_to_the_prompts(base):
    """A LoRA with such a part goes through LoraLoader, and every prompt takes its text encoder from there."""
    some = [panel | {"lora_text_encoder": True} for panel in panels(base)]
    for strength_clip in (None, 0.3):
        made = workflow(some, "style.safetensors", 0.6, strength_clip=strength_clip)
        check_api(made["api"])
        check_ui(made["ui"])
        (loader,) = (key for key, node in made["api"].items() if "Lora" in node["class_type"])
        assert made["api"][loader]["inputs"] == {
            "model": ["1", 0],
            "clip": ["1", 1],
            "lora_name": "style.safetensors",
            "strength_model": 0.6,
            "strength_clip": 0.6 if strength_clip is None else strength_clip,
        }
        takers = [
            (name, value)
            for node in made["api"].values()
            for name, value in node["inputs"].items()
            if name in ("model", "clip") and value[0] != "1"
        ]
        assert set(map(str, takers)) == {
            f"('model', ['{loader}', 0])",
            f"('clip', ['{loader}', 1])",
        }
        assert all(
            node["inputs"]["clip"] == [loader, 1]
            for node in made["api"].values()
            if node["class_type"] == "CLIPTextEncode"
        )
        for form in made.values():
            assert json.dumps(
                workflow(**comfy.read(json.loads(json.dumps(form)))), sort_keys=True
            ) == json.dumps(made, sort_keys=True)
    with pytest.raises(SettingsError, match="strength_clip=21 must be a number from -20 to 20"):
        workflow(some, strength_clip=21)
    with pytest.raises(SettingsError, match="one base, one LoRA and one clip_skip"):
        workflow([*some[:1], *panels(base)[1:]])


def follow(panel, place, control, **changes):
    said = {
        "control": control,
        "strength": 0.8,
        "file": f"panel-{place}-reference.png",
        "picture": "0" * 64,
    }
    return panel | {
        "reference": said
        | ({} if control == "image" else {"end": 1.0, "controlnet": control})
        | changes
    }


@pytest.mark.parametrize("base", FILES)
@pytest.mark.parametrize("guidance_end", [1.0, 0.6, 0.1])
def test_comfy_carries_controlnets_and_pictures_to_start_from(base, guidance_end):
    some = panels(base, guidance_end)
    some[1], some[2], some[3] = (
        follow(some[1], 2, "edges", end=0.5),
        follow(some[2], 3, "image", strength=0.37),
        follow(some[3], 4, "depth", strength=1.0),
    )
    some[4] = follow(some[4], 5, "image", strength=0.01)
    made = workflow(some, models={"edges": "mine.safetensors"})
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        said = comfy.read(json.loads(json.dumps(form)))
        assert json.dumps(workflow(**said), sort_keys=True) == json.dumps(made, sort_keys=True)
        story = comfy.read_story(form)
        assert [
            panel.reference
            and (
                panel.reference.control,
                Path(panel.reference.picture).name,
                panel.reference.prepared,
            )
            for panel in story
        ] == [
            None,
            ("edges", "panel-2-reference.png", True),
            ("image", "panel-3-reference.png", False),
            ("depth", "panel-4-reference.png", True),
            ("image", "panel-5-reference.png", False),
            None,
            None,
            None,
        ]
    api = made["api"]
    assert api["5"]["inputs"] == {"control_net_name": "mine.safetensors"} and api["6"][
        "inputs"
    ] == {"control_net_name": f"{base}-depth.safetensors"}
    assert ("MZ_" in api["5"]["class_type"]) == (FILES[base] == "KolorsPipeline")
    first = api["33"]["inputs"]
    assert (
        api[first["latent_image"][0]]["class_type"] == "VAEEncode"
        and first["start_at_step"] == 25 - int(25 * (1 - 0.37))
        and first["add_noise"] == "enable"
    )
    negative = (
        api["2010"]["inputs"]["conditioning"]
        if guidance_end < 1
        else api["23"]["inputs"]["negative"]
    )
    assert (api["23"]["inputs"]["positive"], negative) == (["28", 0], ["28", 1]) and api["28"][
        "inputs"
    ]["strength"] == 0.8
    assert "models/controlnet" in next(
        node["widgets_values"][0] for node in made["ui"]["nodes"] if node["type"] == "Note"
    )


@pytest.mark.parametrize("base", ["kolors", "sdxl"])
@pytest.mark.parametrize("steps", [8, 25])
def test_comfy_ends_a_controlnet_at_the_step_where_ours_ends(base, steps):
    """ComfyUI takes a step if its sigma is at least that of timestep 999 (1 - end_percent)."""
    sampler = sampling.scheduler(bases.get(base))
    sampler.set_timesteps(steps)
    trained = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).sqrt().log()
    for wanted in range(steps + 1):
        end = wanted / steps
        percent = workflow([follow(panels(base)[0] | {"steps": steps}, 1, "edges", end=end)])[
            "api"
        ]["18"]["inputs"]["end_percent"]
        if percent <= 0:
            assert wanted == 0
            continue
        at = torch.tensor((1 - percent) * 999)
        low, high = int(at.floor()), int(at.ceil())
        least = (
            0
            if percent >= 1
            else ((1 - at.frac()) * trained[low] + at.frac() * trained[high]).exp().item()
        )
        taken = sum(sigma >= least for sigma in sampler.sigmas[:-1].tolist())
        assert taken == wanted or (
            base == "kolors"
            and sampler.timesteps[wanted] > 998
            and taken == int((sampler.timesteps >= 998).sum())
        )


def test_comfy_refuses_two_controlnets_of_a_kind_and_heroines():
    some = panels("sdxl")
    with pytest.raises(SettingsError, match="Two ControlNets follow edges"):
        workflow([follow(some[0], 1, "edges"), follow(some[1], 2, "edges", controlnet="other")])
    with pytest.raises(SettingsError, match="Panel 2 is drawn with a heroine"):
        workflow([some[0], some[1] | {"heroine": {"by": "shared"}}])
    graph = workflow([follow(some[0], 1, "image")])["api"]
    graph["17"]["inputs"]["image"] = "../secret.png"
    with pytest.raises(SettingsError, match="no graph that Storyboard made"):
        comfy.read_story(graph)


def test_comfy_gives_sdxl_zeros_for_no_negative_prompt_as_diffusers_does():
    for base, kind in (
        ("sdxl", "ConditioningZeroOut"),
        ("sd15", "CLIPTextEncode"),
        ("kolors", "MZ_ChatGLM3_V2"),
    ):
        api = workflow(panels(base, count=2))["api"]
        assert api["11"]["class_type"] == kind and api["21"]["inputs"]["text"] == "模糊 1"
    assert workflow(panels("sdxl"))["api"]["11"]["inputs"] == {"conditioning": ["10", 0]}


def sent(text):
    """What ComfyUI's page sends for a text on its canvas (ComfyUI_frontend, processDynamicPrompt), every {a|b} taken as {a}."""
    text, result, place = re.sub(r"/\*[\s\S]*?\*/|//.*", "", text), "", 0
    while place < len(text):
        sign, place = text[place], place + 1
        if sign == "\\":
            result, place = (
                result + "\\" + (text[place] if place < len(text) else "undefined"),
                place + 1,
            )
        elif sign != "{":
            result += sign
        else:
            options, depth = [""], 0
            while place < len(text):
                sign, place = text[place], place + 1
                if sign == "\\":
                    options[-1], place = (
                        options[-1] + "\\" + (text[place] if place < len(text) else "undefined"),
                        place + 1,
                    )
                    continue
                if sign == "}" and not depth:
                    break
                depth += (sign == "{") - (sign == "}")
                if sign == "|" and not depth:
                    options.append("")
                else:
                    options[-1] += sign
            result += sent(options[0])
    return re.sub(r"\\([{}|])", r"\1", result)


def weighed(text, weight=1.0):
    """Words and weights as ComfyUI's text node reads them (comfy/sd1_clip.py, token_weights and parse_parentheses)."""

    def parts(text):
        found, part, depth = [], "", 0
        for sign in text:
            if sign == "(" and depth == 0 and part:
                found, part = [*found, part], ""
            depth += (sign == "(") - (sign == ")")
            part += sign
            if sign == ")" and depth == 0:
                found, part = [*found, part], ""
        return [*found, part] if part else found

    if weight == 1.0:
        text = text.replace("\\)", "\0\1").replace("\\(", "\0\2")
    read = []
    for part in parts(text):
        if part[0] == "(" and part[-1] == ")" and len(part) > 1:
            said, heavier, colon = part[1:-1], weight * 1.1, part[1:-1].rfind(":")
            if colon > 0:
                try:
                    said, heavier = said[:colon], float(said[colon + 1 :])
                except ValueError:
                    pass
            read += weighed(said, heavier)
        else:
            read.append((part.replace("\0\1", ")").replace("\0\2", "("), weight))
    return read


def joined(pieces):
    """Words and weights, neighbours of one weight as one, capitals and space beside a weighted word as CLIP reads them."""
    found = []
    for text, weight in pieces:
        if text.isspace():
            continue  # no token
        if found and abs(found[-1][1] - weight) < 1e-5:
            found[-1] = found[-1][0] + text, weight
        else:
            found.append((text, round(weight, 5)))
    return [(text.strip().lower(), weight) for text, weight in found]


def texts(made, form):
    """The texts that ComfyUI's nodes get from a graph, in its order."""
    if form == "api":
        return [
            node["inputs"]["text"]
            for _, node in sorted(made["api"].items(), key=lambda item: int(item[0]))
            if "text" in node["inputs"]
        ]
    return [
        sent(node["widgets_values"][0])
        for node in made["ui"]["nodes"]
        if node["type"] in ("CLIPTextEncode", "MZ_ChatGLM3_V2")
    ]


ODD = [
    "a {red|blue} hat \\(new\\)",
    "http://x.y/z, a cat",
    "a /* cat */ dog",
    "///",
    "a//b\nc",
    "\\\\{a\\\\}",
    "a | b } {",
    "\\\\\\\\{",
    "path\\\\",
    "a (cat:1.2) [dog]",
    "\\[a\\] b",
    "((a) b:1.3)",
    "(a (b:1.5) c:0.5)",
    "a\\\\(b:1.2)",
    "(a\\\\:1.2) \\(b\\)",
    "12:30, (3:4:1.1)",
    "a embedding:bad",
    "(x:0)",
    "[[a]]",
]


@pytest.mark.parametrize("form", ["api", "ui"])
@pytest.mark.parametrize("prompt", ODD)
def test_comfy_reads_the_words_and_weights_that_storyboard_reads(prompt, form):
    for base in ("sd15", "sdxl"):
        made = workflow([panels(base)[0] | {"prompt": prompt, "negative_prompt": f"no {prompt}"}])
        positive, negative = texts(made, form)
        assert joined(weighed(positive)) == joined(prompts.parse(prompt)) and joined(
            weighed(negative)
        ) == joined(prompts.parse(f"no {prompt}"))
        assert "embedding:" not in positive
        again = comfy.read(made[form])["pictures"][0]
        assert joined(prompts.parse(again["prompt"])) == joined(prompts.parse(prompt))
        assert joined(weighed(texts(workflow([again]), form)[0])) == joined(prompts.parse(prompt))


@pytest.mark.parametrize("form", ["api", "ui"])
def test_comfy_gives_kolors_the_words_alone(form):
    """The pack knows neither weights nor escapes; the canvas sends both nodes' texts through the same rule."""
    made = workflow(
        [
            panels("kolors")[0]
            | {
                "prompt": "a (red:1.3) \\(cat\\), http://x.y [z]",
                "negative_prompt": "/* \\[a\\] */",
            }
        ]
    )
    assert texts(made, form) == ["a red (cat), http://x.y z", "/* [a] */"]
    assert comfy.read(made[form])["pictures"][0]["prompt"] == "a red \\(cat\\), http://x.y z"


def test_comfy_texts_edited_there_come_back_as_comfy_reads_them():
    graph = workflow(panels("sd15"))["api"]
    graph["10"]["inputs"]["text"] = "((red)) [cat] (a (b:1.5):0.5) c\\d"
    read = comfy.read(graph)["pictures"][0]["prompt"]
    assert prompts.parse(read) == [
        ("red ", 1.21),
        ("[cat] ", 1),
        ("a ", 0.5),
        ("b ", 1.5),
        ("c\\d", 1),
    ]


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_comfy_joins_the_chunks_that_clip_read(base):
    """ComfyUI's own cut is after 75 tokens; a node a chunk makes it ours, pooled that of the first."""
    chunks = ["a cat, ", "a (dog:1.2),", " [a] http://x"]
    panel = panels(base)[0] | {
        "prompt": "".join(chunks),
        "negative_prompt": "".join(chunks[:2]),
        "chunks": {"prompt": chunks, "negative_prompt": chunks[:2]},
    }
    made = workflow([panel, panels(base)[1]])
    check_api(made["api"])
    check_ui(made["ui"])

    def said(source):
        node = made["api"][source[0]]
        if node["class_type"] == "ConditioningConcat":
            return said(node["inputs"]["conditioning_to"]) + said(
                node["inputs"]["conditioning_from"]
            )
        return [node["inputs"]["text"]]

    sampler = made["api"]["13"]["inputs"]
    assert said(sampler["positive"]) == [
        "a cat, ",
        "a (dog:1.2),",
        " (a:0.909091) http://x",
    ] and said(sampler["negative"]) == ["a cat, ", "a (dog:1.2),"]
    assert made["api"]["23"]["inputs"]["positive"] == ["20", 0]
    assert "longer than CLIP" not in made["api"]["1"]["_meta"]["note"]
    for form in made.values():
        assert workflow(**comfy.read(json.loads(json.dumps(form)))) == made
        assert prompts.parse(comfy.read_story(form)[0].prompt) == prompts.parse(panel["prompt"])


def test_comfy_says_where_a_long_prompt_is_cut_elsewhere():
    for changed in (
        {"text_length": 154},
        {"chunks": {"prompt": []}},
        {"text_length": 154, "chunks": {"negative_prompt": []}},
    ):
        made = workflow([panels("sdxl")[0] | changed])
        for graph in (made, workflow(**comfy.read(made["ui"]))):
            assert "longer than CLIP reads at once" in graph["api"]["1"]["_meta"]["note"]
    for base, changed in (
        ("sdxl", {"text_length": 77}),
        ("sdxl", {"text_length": 154, "chunks": {}}),
        ("kolors", {"text_length": 256}),
    ):
        assert (
            "longer than CLIP reads at once"
            not in workflow([panels(base)[0] | changed])["api"]["1"]["_meta"]["note"]
        )


def active(percent, sampler):
    """Is a conditioning whose range begins or ends at ``percent`` still, or already, there, step by step? comfy/samplers.py, get_area_and_mult."""
    trained = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).sqrt().log()
    at = torch.tensor((1 - percent) * 999)
    border = (
        ((1 - at.frac()) * trained[int(at.floor())] + at.frac() * trained[int(at.ceil())])
        .exp()
        .item()
    )
    sigmas = sampler.sigmas[:-1].tolist()
    return [sigma >= border for sigma in sigmas], [sigma <= border for sigma in sigmas]


@pytest.mark.parametrize("base", ["kolors", "sdxl", "sd15"])
@pytest.mark.parametrize("control", [None, "edges", "image"])
def test_comfy_ends_guidance_in_one_sampler(base, control):
    """From the step where guidance ends, the negative is the positive: the solver goes on, and cfg changes nothing."""
    panel = panels(base, guidance_end=0.6)[0]
    api = workflow([follow(panel, 1, control, strength=0.4) if control else panel])["api"]
    samplers = [node for node in api.values() if node["class_type"].startswith("KSampler")]
    assert (
        len(samplers) == 1
        and samplers[0]["inputs"]["cfg"] == 5.0
        and samplers[0]["inputs"].get("end_at_step", 25) >= 25
    )
    both = api[samplers[0]["inputs"]["negative"][0]]["inputs"]
    ranged, same = (api[both[f"conditioning_{side}"][0]]["inputs"] for side in (1, 2))
    sides = [["18", 0], ["18", 1]] if control == "edges" else [["10", 0], ["11", 0]]
    assert (
        samplers[0]["inputs"]["positive"] == same["conditioning"] == sides[0]
        and ranged["conditioning"] == sides[1]
    )
    assert (ranged["start"], same["end"]) == (0.0, 1.0) and ranged["end"] == same["start"]
    sampler = sampling.scheduler(bases.get(base))
    sampler.set_timesteps(25)
    negative, positive = active(ranged["end"], sampler)
    assert negative == [step < 15 for step in range(25)] and positive == [
        step >= 15 for step in range(25)
    ]
    assert comfy.read(api)["pictures"][0]["guidance_end"] == 0.6


def test_comfy_refuses_two_samplers_of_an_earlier_storyboard_by_name():
    api = workflow(panels("sd15", count=1))["api"]
    sampler = api["13"]["inputs"]
    common = {
        name: sampler[name]
        for name in ("model", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    }
    for number, add, source, start, end in (
        ("13", "enable", "12", 0, 15),
        ("14", "disable", "13", 15, 10000),
    ):
        api[number] = {
            "class_type": "KSamplerAdvanced",
            "inputs": common
            | {
                "add_noise": add,
                "noise_seed": 7,
                "latent_image": [source, 0],
                "start_at_step": start,
                "end_at_step": end,
                "return_with_leftover_noise": "disable",
            },
        }
    with pytest.raises(SettingsError, match="two samplers a panel.*save_workflow"):
        comfy.read(api)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("my base", "DiffusersLoader"),
        ("sdxl", "DiffusersLoader"),
        ("kolors", "MZ_KolorsUNETLoaderV2"),
    ],
)
def test_comfy_loads_a_base_that_is_a_folder_as_a_folder(base, kind):
    some = [
        panel | {"base": "mine", "layout": "diffusers"}
        for panel in panels(base if base in FILES else "sd15", 0.5)
    ]
    made = workflow(some)
    check_api(made["api"])
    check_ui(made["ui"])
    assert made["api"]["1"]["class_type"] == kind
    if kind == "DiffusersLoader":
        assert (
            made["api"]["1"]["inputs"] == {"model_path": "mine"}
            and "models/diffusers" in made["api"]["1"]["_meta"]["note"]
        )
        assert workflow(some, models={"model_path": "other"})["api"]["1"]["inputs"] == {
            "model_path": "other"
        }
    for form in made.values():
        assert workflow(**comfy.read(form))["api"]["1"] == made["api"]["1"]
    assert workflow([panel | {"base": "mine"} for panel in panels("sd15")])["api"]["1"][
        "inputs"
    ] == {"ckpt_name": "mine.safetensors"}


def test_comfy_tells_a_folder_of_ones_own_from_the_hubs(hub, make_settings, tmp_path):
    folder = hub("sd15").folder
    own, hubs = (
        render(
            Story(["a cat"]), make_settings(base=base, num_inference_steps=2), None, tmp_path / name
        )
        for base, name in ((str(folder), "own"), ("sd15", "hubs"))
    )
    assert (
        workflow(own)["api"]["1"]["inputs"] == {"model_path": folder.name}
        and workflow(hubs)["api"]["1"]["class_type"] == "CheckpointLoaderSimple"
    )


def test_comfy_canvas_leaves_room_for_every_node():
    """litegraph's computeSize: 20 pixels a link, 24 a value, 14 besides; a title of 30 stands above, and a node grows to what it needs."""
    some = panels("sdxl", 0.5)
    some[1] = follow(some[1], 2, "image", strength=0.4)
    some[2] |= {"chunks": {"prompt": ["a, ", "b, ", "c"], "negative_prompt": ["d", "e"]}}
    boxes = []
    for node in workflow(some)["ui"]["nodes"]:
        rows = max(len(node["inputs"]), len(node["outputs"]))
        height = max(node["size"][1], 20 * rows + 24 * len(node["widgets_values"]) + 14)
        (left, top), width = node["pos"], node["size"][0]
        boxes.append((left, top - 30, left + width, top + height))
    apart = lambda one, other: (
        one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    )
    assert all(apart(one, other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_comfy_notes_say_what_is_needed():
    def note(base, **named):
        return next(
            node["widgets_values"][0]
            for node in workflow(panels(base, **named))["ui"]["nodes"]
            if node["type"] == "Note"
        )

    assert (
        "ComfyUI-Kolors-MZ" in note("kolors")
        and "models/loras" in note("kolors")
        and "transformers<5" in note("kolors")
    )
    assert (
        "no ComfyUI node loads" in note("mini")
        and "Kolors-MZ" not in note("sdxl")
        and "transformers" not in note("sdxl")
    )


@pytest.mark.parametrize("steps", [8, 25])
def test_comfy_notes_say_which_ends_come_late_for_kolors(steps):
    """ComfyUI names timesteps up to 999, and Kolors begins at 1,100."""
    sampler = sampling.scheduler(bases.get("kolors"))
    sampler.set_timesteps(steps)
    beyond = int((sampler.timesteps > 998).sum())

    def note(base, end, kind):
        panel = panels(base, guidance_end=end if kind == "guidance" else 1.0)[0] | {"steps": steps}
        return workflow([follow(panel, 1, "edges", end=end) if kind == "edges" else panel])["api"][
            "1"
        ]["_meta"]["note"]

    for kind in ("guidance", "edges"):
        assert [
            f"after step {beyond}." in note("kolors", step / steps, kind)
            for step in range(1, steps + 1)
        ] == [step < beyond for step in range(1, steps + 1)]
        assert "first steps of Kolors" not in note("sdxl", 1 / steps, kind)


def test_comfy_notes_warn_of_what_draws_otherwise_there():
    def note(base, **changed):
        return next(
            node["widgets_values"][0]
            for node in workflow([panels(base)[0] | changed])["ui"]["nodes"]
            if node["type"] == "Note"
        )

    assert "plain words" in note("kolors", prompt="a (red:1.3) cat") and "plain words" in note(
        "kolors", negative_prompt="[text]"
    )
    assert "普通文字" in note("kolors", prompt="\\\\(red)")  # a backslash, then a weight
    assert "plain words" not in note("kolors", prompt="a \\(red\\) cat") + note(
        "sdxl", prompt="a (red:1.3) cat"
    )
    assert "weigh less than 1" in note(
        "sdxl", prompt="a [red] cat"
    ) and "weigh less than 1" in note("sd15", negative_prompt="(red:0.5)")
    assert "weigh less than 1" not in note("sdxl", prompt="a (red:1.3) cat") + note(
        "kolors", prompt="[red]"
    ) + note("sdxl", prompt="\\[red\\]")
    assert (
        "2^53 loses digits" in note("sdxl", seed=2**53 + 1)
        and "大于 2^53" in note("kolors", seed=2**64 - 1)
        and "2^53" not in note("sdxl", seed=2**53)
    )


def test_comfy_braces_of_a_kolors_prompt_are_refused_and_its_picture_has_no_graph():
    """The pack's text node draws lots in Python, where no escape holds."""
    panel = panels("kolors")[0] | {"prompt": "{红|蓝}色"}
    with pytest.raises(SettingsError, match="Panel 2 has a pair of braces.*take them out"):
        workflow([panels("kolors")[0], panel])
    for texts in ({"negative_prompt": "{模糊}"}, {"prompt": "{{红}"}):
        with pytest.raises(SettingsError, match="Panel 1 has a pair of braces"):
            workflow([panels("kolors")[0] | texts])
    workflow(
        [panels("kolors")[0] | {"prompt": "{红", "negative_prompt": "模糊}"}]
    )  # no pair: each text has a node of its own
    facts = {"sampler": "", "schedule_type": "", "base_fingerprint": ""}
    assert "workflow" not in {
        chunk[1].split(b"\0")[0].decode(): 1 for chunk in png.info(panel | facts).chunks
    }


def test_comfy_nodes_name_the_pack_they_come_from():
    for node in (
        workflow(panels("kolors"))["ui"]["nodes"]
        + workflow(panels("sdxl", guidance_end=0.5))["ui"]["nodes"]
    ):
        if node["type"] != "Note":  # the page's own, no node of the server
            pack = (
                {"cnr_id": "comfyui-kolors-mz", "aux_id": "MinusZoneAI/ComfyUI-Kolors-MZ"}
                if node["type"].startswith("MZ_")
                else {"cnr_id": "comfy-core"}
            )
            assert node["properties"] == {"Node name for S&R": node["type"]} | pack


def spoilt(change, form="api"):
    made = workflow(panels("sd15"))[form]
    change(made)
    return made


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"nodes": []},
        {"1": {"class_type": "Other", "inputs": {}}},
        {"nodes": [{"type": "Reroute"}], "links": []},
        spoilt(lambda api: api["13"]["inputs"].update(sampler_name="euler")),
        spoilt(lambda api: api.pop("15")),
        spoilt(lambda api: api["13"]["inputs"].update(steps="many")),
        spoilt(
            lambda api: api.update(
                {"99": {"class_type": "PreviewImage", "inputs": {"images": ["15", 0]}}}
            )
        ),
        spoilt(lambda ui: ui["links"].pop(), "ui"),
    ],
)
def test_comfy_graph_that_is_not_ours_is_refused(graph):
    with pytest.raises(SettingsError, match="The graph is no graph that Storyboard made"):
        comfy.read(graph)


def test_comfy_files_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("broken.json", "list.json", "plain.png", "text.png", "none.json"):
        with pytest.raises(SettingsError, match=f"{name} is no graph that Storyboard made"):
            comfy.read(tmp_path / name)


def test_comfy_gives_sdxl_zeros_where_brackets_hold_no_word():
    api = workflow([panels("sdxl")[0] | {"negative_prompt": "()"}])["api"]
    assert api["11"]["class_type"] == "ConditioningZeroOut"


def test_comfy_arguments_are_checked():
    with pytest.raises(SettingsError, match="at most 64 panels, not 65"):
        workflow(panels("sdxl", count=65))
    with pytest.raises(SettingsError, match="one base, one LoRA and one clip_skip"):
        workflow([*panels("sdxl"), *panels("kolors")])
    with pytest.raises(SettingsError, match="strength=30"):
        workflow(panels("sdxl"), strength=30)


def test_comfy_braces_edited_into_a_kolors_graph_are_named():
    graph = workflow(panels("kolors"))["api"]
    graph["20"]["inputs"]["text"] = "{红|蓝}色"
    with pytest.raises(
        SettingsError, match="^The graph: panel 2 has a pair of braces.*take them out"
    ):
        comfy.read(graph)


def test_comfy_edits_come_back():
    ui = workflow(panels("kolors"))["ui"]
    node = next(node for node in ui["nodes"] if node["type"] == "MZ_ChatGLM3_V2")
    node["widgets_values"], node["pos"] = ["a girl"], [5, 5]
    assert comfy.read_story(ui)[0].prompt == "a girl"


def test_comfy_graph_is_in_each_picture_and_tells_no_secrets(
    hub, make_settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    settings = make_settings(base="sd15", num_inference_steps=2, guidance_end=0.5)
    state = {}
    for name, layer in models.skeleton(hub("sd15"), "unet").named_modules():
        if name.endswith("to_q"):
            state |= {
                f"{name}.lora_A.weight": layer.weight.new_ones(
                    (1, layer.in_features), device="cpu"
                ),
                f"{name}.lora_B.weight": layer.weight.new_ones(
                    (layer.out_features, 1), device="cpu"
                ),
            }
    lora.save(tmp_path / "lora.safetensors", state, 1, {})
    story = Story([Panel("二次元，女孩"), "a boy"], negative_prompt="模糊")
    pictures = render(story, settings, tmp_path / "lora.safetensors")
    for path, panel in zip(pictures.paths, pictures.panels):
        with Image.open(path) as image:
            text = dict(image.text)
        made = workflow([panel])
        assert (
            json.loads(text["prompt"]) == made["api"]
            and json.loads(text["workflow"]) == made["ui"]
            and text["prompt"].isascii()
        )
        assert b"tEXtprompt\0" in path.read_bytes() and b"tEXtworkflow\0" in path.read_bytes()
        assert (
            workflow(**comfy.read(path)) == made
            and comfy.read_story(path)[0].prompt == panel["prompt"]
        )
        for secret in (str(tmp_path), str(Path.home()), getpass.getuser(), "hf_abcdefghijklmnop"):
            assert not any(
                re.search(rf"(?<![a-z]){re.escape(secret)}(?![a-z])", value)
                for value in text.values()
            )
    before = pictures.grid.stat().st_mtime_ns
    path = save_workflow(pictures)
    assert (
        comfy.read(path) == comfy.read(path.with_name("workflow_api.json"))
        and len(comfy.read(path)["pictures"]) == 2
    )
    render(story, settings, tmp_path / "lora.safetensors")
    assert pictures.grid.stat().st_mtime_ns == before and path.is_file()  # nothing drawn anew


V_PREDICTION = {
    "prediction_type": "v_prediction",
    "zero_terminal_snr": True,
    "schedule_type": "Simple",
}


@pytest.mark.parametrize(
    ("base", "facts", "sampling", "layer"),
    [
        ("sdxl", V_PREDICTION, ["v_prediction", True, "simple"], None),
        (
            "sdxl",
            V_PREDICTION | {"zero_terminal_snr": False, "schedule_type": "Karras"},
            ["v_prediction", False, "karras"],
            None,
        ),
        ("sd15", {"clip_skip": 2}, None, -2),
        ("sd15", {"clip_skip": 1}, None, None),
        ("sdxl", {"clip_skip": 2}, None, None),
        ("sdxl", {"clip_skip": 3}, None, -3),
        ("sd15", V_PREDICTION | {"clip_skip": 2}, ["v_prediction", True, "simple"], -2),
    ],
)
def test_comfy_is_told_what_the_base_predicts_and_which_layer_of_clip_is_read(
    base, facts, sampling, layer
):
    some = [panel | facts for panel in panels(base)]
    some[1] = follow(some[1], 2, "edges", end=0.5)
    made = workflow(some)
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        again = workflow(**comfy.read(json.loads(json.dumps(form))))
        assert json.dumps(again, sort_keys=True) == json.dumps(made, sort_keys=True)
    for place in range(1, 9):
        sampler = made["api"][f"{place}3"]["inputs"]
        model, clip = (
            made["api"][source]
            for source in (sampler["model"][0], made["api"][f"{place}0"]["inputs"]["clip"][0])
        )
        if sampling:
            assert [
                model["inputs"].get("sampling"),
                model["inputs"].get("zsnr"),
                sampler["scheduler"],
            ] == sampling
            model = made["api"][model["inputs"]["model"][0]]
        assert "Lora" in model["class_type"] and clip["inputs"].get("stop_at_clip_layer") == layer
    note = next(node["widgets_values"][0] for node in made["ui"]["nodes"] if node["type"] == "Note")
    assert ("predicts v" in note) == bool(sampling)


def test_comfy_has_no_graph_for_a_kolors_that_predicts_v_and_none_for_two_ways_of_reading():
    with pytest.raises(SettingsError, match="Panel 1 is drawn by a Kolors that predicts v"):
        workflow([panels("kolors")[0] | V_PREDICTION])
    one, other = panels("sd15", count=2)
    with pytest.raises(SettingsError, match="panels of one base, one LoRA and one clip_skip"):
        workflow([one, other | {"clip_skip": 2}])


def drawn_by_comfy(unet, tokens, added, noise, steps, guidance_scale):
    """ComfyUI's dpmpp_2m and simple on ModelSamplingDiscrete(v_prediction, zsnr): comfy/model_sampling.py, samplers.py, k_diffusion/sampling.py."""
    alphas = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    ).sqrt()
    alphas = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])) ** 2
    alphas[-1] = 4.8973451890853435e-08
    trained = ((1 - alphas) / alphas).sqrt().float()
    sigmas = [trained[-(1 + int(step * len(trained) / steps))] for step in range(steps)] + [
        torch.tensor(0.0)
    ]

    def denoised(x, sigma):
        timestep = (sigma.log() - trained.log()).abs().argmin()
        v = unet(
            torch.cat([x] * 2) / (sigma**2 + 1).sqrt(),
            timestep,
            encoder_hidden_states=tokens,
            added_cond_kwargs=added,
        ).sample
        negative, positive = (
            x / (sigma**2 + 1) - each * sigma / (sigma**2 + 1).sqrt() for each in v.chunk(2)
        )
        return negative + guidance_scale * (positive - negative)

    x, old = noise * (1 + sigmas[0] ** 2).sqrt(), None
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        found = new = denoised(x, sigma)
        if old is not None and following > 0:
            ratio = (sigmas[step - 1] / sigma).log() / (sigma / following).log()
            new = (1 + 1 / (2 * ratio)) * found - old / (2 * ratio)
        x = following / sigma * x + (1 - following / sigma) * new
        old = found
    return x


def test_comfy_draws_v_prediction_with_zero_terminal_snr_as_we_do(hub, tmp_path, make_settings):
    folder = tmp_path / "v"
    shutil.copytree(hub("sdxl").folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        )
    )
    base, settings = bases.get(str(folder)), make_settings(base=str(folder))
    plan = memory.plan(base, settings)
    said = conditioning.encode(
        replace(run_on(base, settings), plan=plan), ["a girl in the rain", "blurry"]
    )
    pipe = sampling.load_pipeline(base, plan)
    ours = sampling.denoise(pipe, [said["a girl in the rain"]], [said["blurry"]], [7], 64, 8, 4.0)
    tokens, pooled = conditioning.stack([said["blurry"], said["a girl in the rain"]])
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        theirs = drawn_by_comfy(
            pipe.unet,
            tokens,
            added,
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)),
            8,
            4.0,
        )
    pictures = [sampling.decode(pipe, latents) / 2 + 0.5 for latents in (ours, theirs)]
    assert (pictures[0] - pictures[1]).abs().max() < 1 / 255
