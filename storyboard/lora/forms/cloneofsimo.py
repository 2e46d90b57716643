"""The first trainer, cloneofsimo/lora: ``unet:9:down``, modules by their number.

It numbered them in the order of ``named_modules()`` in diffusers 0.11 and transformers 4.25
(lora_diffusion/lora.py, _find_modules). Its scale lies in ``up`` (``extract_lora_as_tensor``), so
that alpha is the rank.
"""

import re

from storyboard.errors import LoraError
from storyboard.lora import names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms.registry import Form
from storyboard.lora.state import LoraFile, LoraState, Place

KEY = re.compile(r"(unet|text_encoder):([0-9]{1,4}):(up|down)")
# classes whose layers it changed by default; of each set, one name by the version of diffusers
DEFAULT_CLASSES = {
    "unet": ({"CrossAttention", "Attention"}, {"GEGLU"}),
    "text_encoder": ({"CLIPAttention"},),
}
UNET_BLOCKS = (
    *(f"down_blocks.{block}.attentions.{layer}" for block in (0, 1, 2) for layer in (0, 1)),
    *(f"up_blocks.{block}.attentions.{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)),
    "mid_block.attentions.0",
)
UNET_LAYERS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
)
TEXT_LAYERS = ("k_proj", "v_proj", "q_proj", "out_proj")


def recognises(key: str) -> bool:
    return KEY.fullmatch(key) is not None


def read(file: LoraFile) -> LoraState:
    """Raises LoraError where it changes other layers than those of the default, or not all."""
    matches = {key: KEY.fullmatch(key) for key in file.tensors}
    modules = {}
    for component in DEFAULT_CLASSES:
        numbers = {int(match[2]) for match in matches.values() if match[1] == component}
        modules[component] = _modules(component, len(numbers))
        classes = _classes(component, file)
        by_default = (
            all(classes & names for names in DEFAULT_CLASSES[component])
            and classes <= set().union(*DEFAULT_CLASSES[component])
            and numbers == set(range(len(modules[component])))
        )
        if numbers and not by_default:
            listed = ", ".join(sorted(classes)) or "unnamed classes"
            raise LoraError(
                f"{file.path} was made by cloneofsimo/lora for {len(numbers)} layers of {listed} "
                f"in {component}, whose order is not known: "
                "only its default, all of attention and GEGLU, is read."
            )

    places = {}
    for key, match in matches.items():
        component, number, side = match[1], int(match[2]), match[3]
        path = names.module_path(component, modules[component][number])
        places[key] = Place(path, side)
    return assemble(file, places)


def _modules(component: str, count: int) -> list[str]:
    """The modules in their order; a text encoder has as many layers as ``count`` modules fill."""
    if component == "unet":
        return [
            f"{block}.transformer_blocks.0.{layer}"
            for block in UNET_BLOCKS
            for layer in UNET_LAYERS
        ]
    layers = -(-count // len(TEXT_LAYERS))
    return [
        f"encoder.layers.{layer}.self_attn.{part}"
        for layer in range(layers)
        for part in TEXT_LAYERS
    ]


def _classes(component: str, file: LoraFile) -> set[str]:
    """Classes that it changed, a list in JSON among the metadata."""
    return set(re.findall(r"\w+", file.metadata.get(component, "")))


FORM = Form("cloneofsimo", recognises, read)
