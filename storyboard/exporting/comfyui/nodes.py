"""ComfyUI's nodes that a story needs: what each takes and gives.

Nodes that ComfyUI itself lacks stand with the family that needs them (``ComfyNodes.pack_nodes``).
"""

from storyboard.models import families
from storyboard.models.families import NodeType

TYPED_IN = ("COMBO", "STRING", "INT", "FLOAT", "BOOLEAN")  # the others come from another node

_SAMPLER = {
    "sampler_name": "COMBO",
    "scheduler": "COMBO",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
}
CORE_NODES = {  # INPUT_TYPES and RETURN_TYPES of ComfyUI's nodes.py
    "CheckpointLoaderSimple": NodeType({"ckpt_name": "COMBO"}, ("MODEL", "CLIP", "VAE")),
    "DiffusersLoader": NodeType({"model_path": "COMBO"}, ("MODEL", "CLIP", "VAE")),
    "ControlNetLoader": NodeType({"control_net_name": "COMBO"}, ("CONTROL_NET",)),
    "VAELoader": NodeType({"vae_name": "COMBO"}, ("VAE",)),
    "LoraLoaderModelOnly": NodeType(
        {"model": "MODEL", "lora_name": "COMBO", "strength_model": "FLOAT"}, ("MODEL",)
    ),
    "LoraLoader": NodeType(
        {
            "model": "MODEL",
            "clip": "CLIP",
            "lora_name": "COMBO",
            "strength_model": "FLOAT",
            "strength_clip": "FLOAT",
        },
        ("MODEL", "CLIP"),
    ),
    "CLIPSetLastLayer": NodeType({"clip": "CLIP", "stop_at_clip_layer": "INT"}, ("CLIP",)),
    "ModelSamplingDiscrete": NodeType(
        {"model": "MODEL", "sampling": "COMBO", "zsnr": "BOOLEAN"}, ("MODEL",)
    ),
    "CLIPTextEncode": NodeType({"text": "STRING", "clip": "CLIP"}, ("CONDITIONING",)),
    "ConditioningZeroOut": NodeType({"conditioning": "CONDITIONING"}, ("CONDITIONING",)),
    "ConditioningConcat": NodeType(
        {"conditioning_to": "CONDITIONING", "conditioning_from": "CONDITIONING"},
        ("CONDITIONING",),
    ),
    "ConditioningCombine": NodeType(
        {"conditioning_1": "CONDITIONING", "conditioning_2": "CONDITIONING"},
        ("CONDITIONING",),
    ),
    "ConditioningSetTimestepRange": NodeType(
        {"conditioning": "CONDITIONING", "start": "FLOAT", "end": "FLOAT"},
        ("CONDITIONING",),
    ),
    "ControlNetApplyAdvanced": NodeType(
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
    "LoadImage": NodeType({"image": "COMBO"}, ("IMAGE", "MASK")),
    "ImageScale": NodeType(
        {
            "image": "IMAGE",
            "upscale_method": "COMBO",
            "width": "INT",
            "height": "INT",
            "crop": "COMBO",
        },
        ("IMAGE",),
    ),
    "VAEEncode": NodeType({"pixels": "IMAGE", "vae": "VAE"}, ("LATENT",)),
    "EmptyLatentImage": NodeType(
        {"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)
    ),
    "KSampler": NodeType(
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
    "KSamplerAdvanced": NodeType(
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
    "VAEDecode": NodeType({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": NodeType({"images": "IMAGE", "filename_prefix": "STRING"}, ()),
}


def node_type(class_type: str) -> NodeType:
    """What ``class_type`` takes and gives; KeyError for a node that no graph of ours has."""
    if class_type in CORE_NODES:
        return CORE_NODES[class_type]
    for family in families.known():
        if class_type in family.comfyui.pack_nodes:
            return family.comfyui.pack_nodes[class_type]
    raise KeyError(class_type)


def links(kind: NodeType) -> list[str]:
    """Inputs that come from another node."""
    return [name for name, type_ in kind.inputs.items() if type_ not in TYPED_IN]


def widgets(kind: NodeType) -> list[str]:
    """Inputs that are typed in."""
    return [name for name, type_ in kind.inputs.items() if type_ in TYPED_IN]


def is_prompt(class_type: str, name: str) -> bool:
    """Whether the input ``name`` holds a prompt."""
    texts = {(family.comfyui.text[0], family.comfyui.text[2]) for family in families.known()}
    return (class_type, name) in texts


def node(class_type: str, **inputs: object) -> dict:
    """A node in API form, its inputs in ComfyUI's order; KeyError where one is missing."""
    kind = node_type(class_type)
    return {"class_type": class_type, "inputs": {name: inputs[name] for name in kind.inputs}}
