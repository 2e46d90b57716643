"""ComfyUI's rules for nodes and texts, read apart from the package: what a graph must keep to."""

import contextlib
import re

# ComfyUI's nodes.py and ComfyUI-Kolors-MZ's __init__.py: input -> type of a link, or Python type
# with lowest and highest or with choices; then outputs
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
            fits(value, *kind) for value, kind in zip(node["widgets_values"], expected, strict=True)
        )


def sent(text):
    """What ComfyUI's page sends for a text, every {a|b} taken as {a}.

    ComfyUI_frontend, processDynamicPrompt.
    """
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
    """Words and weights as ComfyUI's text node reads them.

    comfy/sd1_clip.py, token_weights and parse_parentheses.
    """

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
            words, heavier, colon = part[1:-1], weight * 1.1, part[1:-1].rfind(":")
            if colon > 0:
                with contextlib.suppress(ValueError):
                    words, heavier = words[:colon], float(words[colon + 1 :])
            read += weighed(words, heavier)
        else:
            read.append((part.replace("\0\1", ")").replace("\0\2", "("), weight))
    return read


def joined(pieces):
    """Words and weights as CLIP reads them: small letters, neighbours of one weight as one."""
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
