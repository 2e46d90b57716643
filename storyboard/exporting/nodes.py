"""ComfyUI's nodes that a story needs, their inputs and outputs, and how a graph of them is laid out on its canvas."""

from dataclasses import dataclass

from storyboard.exporting import syntax

LINKED = (
    "MODEL",
    "CLIP",
    "VAE",
    "CONDITIONING",
    "LATENT",
    "IMAGE",
    "CONTROL_NET",
    "CHATGLM3MODEL",
)  # types that come from another node; the rest are typed in
SECOND = {
    "seed": "fixed",
    "noise_seed": "fixed",
    "image": "image",
}  # the canvas keeps a second value after these: what to do with the seed after a run, and the button that uploads
CORE, PACK = (
    {"cnr_id": "comfy-core"},
    {"cnr_id": "comfyui-kolors-mz", "aux_id": "MinusZoneAI/ComfyUI-Kolors-MZ"},
)  # where ComfyUI's manager looks for a missing node
WIDTH, HEIGHT, GAP = 340, 360, 60  # pixels
SLOT, WIDGET, MARGIN = (
    20,
    24,
    14,
)  # pixels of height for a link, a value and the rest (litegraph, computeSize)
LOADERS, OWN = (
    10,
    1000,
)  # numbers below the first are loaders; the second is the step of panels' further nodes


@dataclass(frozen=True)
class Node:
    """What a node takes, name and type in ComfyUI's order, and the types it gives."""

    inputs: dict[str, str]
    outputs: tuple[str, ...]

    @property
    def links(self) -> list[str]:
        """Inputs that come from another node."""
        return [name for name, kind in self.inputs.items() if kind in LINKED]

    @property
    def widgets(self) -> list[str]:
        """Inputs that are typed in."""
        return [name for name, kind in self.inputs.items() if kind not in LINKED]

    @property
    def values(self) -> int:
        """Values that the canvas shows, the second ones of ``SECOND`` among them."""
        return len(self.widgets) + len(SECOND.keys() & self.inputs.keys())


_SAMPLER = {
    "sampler_name": "COMBO",
    "scheduler": "COMBO",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
}
NODES = {  # INPUT_TYPES and RETURN_TYPES of ComfyUI's nodes.py and of ComfyUI-Kolors-MZ's __init__.py
    "CheckpointLoaderSimple": Node({"ckpt_name": "COMBO"}, ("MODEL", "CLIP", "VAE")),
    "DiffusersLoader": Node({"model_path": "COMBO"}, ("MODEL", "CLIP", "VAE")),
    "MZ_KolorsUNETLoaderV2": Node({"unet_name": "COMBO"}, ("MODEL",)),
    "MZ_KolorsControlNetLoader": Node({"control_net_name": "COMBO"}, ("CONTROL_NET",)),
    "ControlNetLoader": Node({"control_net_name": "COMBO"}, ("CONTROL_NET",)),
    "MZ_ChatGLM3Loader": Node({"chatglm3_checkpoint": "COMBO"}, ("CHATGLM3MODEL",)),
    "VAELoader": Node({"vae_name": "COMBO"}, ("VAE",)),
    "LoraLoaderModelOnly": Node(
        {"model": "MODEL", "lora_name": "COMBO", "strength_model": "FLOAT"}, ("MODEL",)
    ),
    "LoraLoader": Node(
        {
            "model": "MODEL",
            "clip": "CLIP",
            "lora_name": "COMBO",
            "strength_model": "FLOAT",
            "strength_clip": "FLOAT",
        },
        ("MODEL", "CLIP"),
    ),
    "CLIPSetLastLayer": Node({"clip": "CLIP", "stop_at_clip_layer": "INT"}, ("CLIP",)),
    "ModelSamplingDiscrete": Node(
        {"model": "MODEL", "sampling": "COMBO", "zsnr": "BOOLEAN"}, ("MODEL",)
    ),
    "CLIPTextEncode": Node({"text": "STRING", "clip": "CLIP"}, ("CONDITIONING",)),
    "MZ_ChatGLM3_V2": Node(
        {"chatglm3_model": "CHATGLM3MODEL", "text": "STRING"}, ("CONDITIONING",)
    ),
    "ConditioningZeroOut": Node({"conditioning": "CONDITIONING"}, ("CONDITIONING",)),
    "ConditioningConcat": Node(
        {"conditioning_to": "CONDITIONING", "conditioning_from": "CONDITIONING"},
        ("CONDITIONING",),
    ),
    "ConditioningCombine": Node(
        {"conditioning_1": "CONDITIONING", "conditioning_2": "CONDITIONING"},
        ("CONDITIONING",),
    ),
    "ConditioningSetTimestepRange": Node(
        {"conditioning": "CONDITIONING", "start": "FLOAT", "end": "FLOAT"},
        ("CONDITIONING",),
    ),
    "ControlNetApplyAdvanced": Node(
        {
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "control_net": "CONTROL_NET",
            "image": "IMAGE",
            "strength": "FLOAT",
            "start_percent": "FLOAT",
            "end_percent": "FLOAT",
        },
        ("CONDITIONING", "CONDITIONING"),
    ),
    "LoadImage": Node({"image": "COMBO"}, ("IMAGE", "MASK")),
    "ImageScale": Node(
        {
            "image": "IMAGE",
            "upscale_method": "COMBO",
            "width": "INT",
            "height": "INT",
            "crop": "COMBO",
        },
        ("IMAGE",),
    ),
    "VAEEncode": Node({"pixels": "IMAGE", "vae": "VAE"}, ("LATENT",)),
    "EmptyLatentImage": Node({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
    "KSampler": Node(
        {
            "model": "MODEL",
            "seed": "INT",
            "steps": "INT",
            "cfg": "FLOAT",
            **_SAMPLER,
            "denoise": "FLOAT",
        },
        ("LATENT",),
    ),
    "KSamplerAdvanced": Node(
        {
            "model": "MODEL",
            "add_noise": "COMBO",
            "noise_seed": "INT",
            "steps": "INT",
            "cfg": "FLOAT",
            **_SAMPLER,
            "start_at_step": "INT",
            "end_at_step": "INT",
            "return_with_leftover_noise": "COMBO",
        },
        ("LATENT",),
    ),
    "VAEDecode": Node({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": Node({"images": "IMAGE", "filename_prefix": "STRING"}, ()),
}


def node(class_type: str, **inputs: object) -> dict:
    """A node in API form, its inputs in ComfyUI's order; KeyError where one is missing."""
    return {
        "class_type": class_type,
        "inputs": {name: inputs[name] for name in NODES[class_type].inputs},
    }


def key(place: int, part: int) -> str:
    """The number of a panel's node: one digit behind its place, or, for the tenth and further ones, three."""
    return str(LOADERS * place + part if part < LOADERS else OWN * place + part)


def _place(number: int) -> tuple[int, int]:
    """Place and part of the node that ``key`` numbers so."""
    return divmod(number, LOADERS if number < OWN else OWN)


def _positions(numbers: list[int]) -> dict[int, list[int]]:
    """Where each node stands, pixels: a row for the loaders, and one for each panel, its further nodes at the end."""
    found, further = {}, {}
    for number in sorted(numbers):
        row, part = _place(number)
        if part >= LOADERS:
            further[row] = column = further.get(row, LOADERS - 1) + 1
        else:
            column = part
        found[number] = [column * (WIDTH + GAP), row * (HEIGHT + GAP)]
    return found


def _height(kind: Node) -> int:
    """Pixels that a node takes on the canvas, at least."""
    needed = SLOT * max(len(kind.links), len(kind.outputs)) + WIDGET * kind.values + MARGIN
    return max(HEIGHT - 2 * GAP, needed)


def to_ui(api: dict) -> dict:
    """API form -> the canvas's form, version 0.4 (https://docs.comfy.org/specs/workflow_json_0.4): a row for the loaders, one for each panel."""
    links, nodes, positions = [], [], _positions([int(key) for key in api])
    for key, each in api.items():
        for slot, name in enumerate(NODES[each["class_type"]].links):
            source, output = each["inputs"][name]
            links.append(
                [
                    len(links) + 1,
                    int(source),
                    output,
                    int(key),
                    slot,
                    NODES[each["class_type"]].inputs[name],
                ]
            )
    for order, (key, each) in enumerate(sorted(api.items(), key=lambda item: int(item[0]))):
        kind, number = NODES[each["class_type"]], int(key)
        typed = {name: each["inputs"][name] for name in kind.widgets}
        if "text" in typed:
            typed["text"] = syntax.to_canvas(typed["text"])
        widgets = [
            value
            for name in kind.widgets
            for value in ([typed[name], SECOND[name]] if name in SECOND else [typed[name]])
        ]
        into = {slot: link for link, _, _, target, slot, _ in links if target == number}
        out = [
            [link for link, source, output, *_ in links if (source, output) == (number, slot)]
            for slot in range(len(kind.outputs))
        ]
        made = {
            "id": number,
            "type": each["class_type"],
            "pos": positions[number],
            "size": [WIDTH, _height(kind)],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [
                {"name": name, "type": kind.inputs[name], "link": into[slot]}
                for slot, name in enumerate(kind.links)
            ],
            "outputs": [
                {"name": name, "type": name, "links": out[slot], "slot_index": slot}
                for slot, name in enumerate(kind.outputs)
            ],
            "properties": {"Node name for S&R": each["class_type"]}
            | (PACK if each["class_type"].startswith("MZ_") else CORE),
            "widgets_values": widgets,
        }
        nodes.append(made | ({"title": each["_meta"]["title"]} if "_meta" in each else {}))
    last = max(map(int, api))
    note = {
        "id": last + 1,
        "type": "Note",
        "pos": [0, 0],
        "size": [WIDTH, HEIGHT - 2 * GAP],
        "flags": {},
        "order": len(nodes),
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"text": ""},
        "widgets_values": [api["1"]["_meta"]["note"]],
    }
    return {
        "last_node_id": last + 1,
        "last_link_id": len(links),
        "nodes": [*nodes, note],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def from_ui(ui: dict) -> dict:
    """The canvas's form -> API form, as ComfyUI's own "Export (API)" does.

    Raises:
        KeyError, IndexError, ValueError: A node, link or value that is not there or not known.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    api, note = {}, None
    for each in ui["nodes"]:
        if each["type"] == "Note":
            note = each["widgets_values"][0]
            continue
        kind, values = NODES[each["type"]], list(each["widgets_values"])
        linked = {
            entry["name"]: links[entry["link"]]
            for entry in each["inputs"]
            if entry["name"] in kind.links
        }
        typed = {}
        for name in kind.widgets:
            typed[name] = syntax.from_canvas(values.pop(0)) if name == "text" else values.pop(0)
            if name in SECOND:
                values.pop(0)
        made = {
            "class_type": each["type"],
            "inputs": {name: (linked | typed)[name] for name in kind.inputs},
        }
        api[str(each["id"])] = made | (
            {"_meta": {"title": each["title"]}} if "title" in each else {}
        )
    if note is not None:
        api["1"]["_meta"]["note"] = note
    return api
