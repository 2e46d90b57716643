"""Weights on disk -> modules of diffusers and transformers; no model code of our own."""

import importlib
import inspect
import json
from collections.abc import Iterator

import torch
from accelerate import init_empty_weights

from .bases import Base
from .bases.base import header_length, read_header
from .errors import BaseError
from .quiet import quiet

CHATGLM = "diffusers.pipelines.kolors.text_encoder", "ChatGLMModel"
CLIP = "transformers", "CLIPTextModel"
CLASSES = {  # by pipeline, then component: module and class
    "KolorsPipeline": {"text_encoder": CHATGLM},
    "StableDiffusionXLPipeline": {"text_encoder": CLIP, "text_encoder_2": ("transformers", "CLIPTextModelWithProjection")},
    "StableDiffusionPipeline": {"text_encoder": CLIP},
}
SHARED = {
    # DiffSynth's pool imports a class by the module that defines it, past diffusers' lazy modules.
    "unet": ("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel"),
    "vae": ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL"),
}
TOKENIZERS = {"KolorsPipeline": ("diffusers.pipelines.kolors.tokenizer", "ChatGLMTokenizer")}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}
ROTARY = "rotary_pos_emb.inv_freq"


def class_of(base: Base, component: str) -> type:
    """The class that holds the weights of ``component``."""
    module, name = (CLASSES[base.pipeline] | SHARED)[component]
    return getattr(importlib.import_module(module), name)


def load(base: Base, component: str, dtype: torch.dtype, **quantised: object) -> torch.nn.Module:
    """The module of ``component`` with its weights, in evaluation mode, on the CPU.

    Args:
        quantised: Options that ``from_pretrained`` quantises by; it loads then, onto the card.

    Raises:
        BaseError: The weights are not those that ``config.json`` describes.
    """
    check_layout(base, component)
    if quantised:
        with quiet():
            return class_of(base, component).from_pretrained(
                base.folder / component, variant=base.variant(component), use_safetensors=True, local_files_only=True, dtype=dtype, **quantised,
            ).eval()
    model = skeleton(base, component)
    names = {_plain(name): name for name in model.state_dict()}
    tensors = {names[_plain(name)]: tensor for name, tensor in read(base, component, dtype) if _plain(name) in names}
    model.load_state_dict(tensors, strict=False, assign=True)  # check_layout was strict; buffers that are computed may be missing
    if rotary := [name for name in names.values() if name.endswith(ROTARY) and name not in tensors]:
        _compute_rotary(model, rotary[0])
    return model.requires_grad_(False).eval()


def read(base: Base, component: str, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of ``component``, floats cast to ``dtype``, each in memory of its own, 4-D ones channels last.

    Not by memory map: the file's pages would count beside the cast copies, and tensors would lie at addresses at which
    kernels round differently.
    """
    for path in base.weight_files(component):
        start, header = header_length(path), read_header(path)
        with open(path, "rb", buffering=0) as file:
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
                file.seek(start + entry["data_offsets"][0])
                if tensor.numel():
                    file.readinto(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
                # kernels of convolutions lie as they will be used: to turn them round later would leave holes in memory
                layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
                yield name, tensor.to(dtype, memory_format=layout) if tensor.is_floating_point() else tensor


def tokenizer(base: Base, component: str):
    """The tokenizer that belongs to the text encoder ``component``."""
    module, name = TOKENIZERS.get(base.pipeline, ("transformers", "CLIPTokenizer"))
    with quiet():
        return getattr(importlib.import_module(module), name).from_pretrained(base.folder / component.replace("text_encoder", "tokenizer"), local_files_only=True)


def pipeline(base: Base, **parts: object):
    """diffusers' pipeline of ``base`` from some of its parts, the others None; configured as ``model_index.json`` says."""
    import diffusers

    kind = getattr(diffusers, base.pipeline)
    settings = json.loads((base.folder / "model_index.json").read_text(encoding="utf-8"))
    signature = inspect.signature(kind.__init__).parameters
    arguments = {name: None for name, parameter in signature.items() if name != "self" and parameter.default is inspect.Parameter.empty}
    arguments |= {name: settings[name] for name in ("force_zeros_for_empty_prompt",) if name in settings and name in signature}
    arguments |= {name: False for name in ("requires_safety_checker", "add_watermarker") if name in signature}
    with quiet():
        pipe = kind(**arguments | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_layout(base: Base, component: str) -> None:
    """Compare names and shapes in the files' headers with those of the class; nothing is read but headers.

    Raises:
        BaseError: Tensors are missing, of another shape or of an unknown type; names the file and the first of them.
    """
    files = base.weight_files(component)
    headers = {path: read_header(path) for path in files}
    for path, header in headers.items():
        if strange := sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys()):
            raise BaseError(f"{path} holds numbers of the type {strange[0]}: get the weights in fp16, bf16 or fp32.")
    found = {name: tuple(entry["shape"]) for header in headers.values() for name, entry in header.items()}
    kind = class_of(base, component)
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton(base, component).state_dict().items()}
    plain = {_plain(name): shape for name, shape in found.items()}
    wrong = [name for name, shape in expected.items() if plain.get(_plain(name)) != shape and not name.endswith(("position_ids", ROTARY))]
    if wrong:
        here = plain.get(_plain(wrong[0]))
        where = files[0] if len(files) == 1 else files[0].parent
        raise BaseError(
            f"{where} does not hold a {kind.__name__} as {component}/config.json describes it: {len(wrong)} of {len(expected)} tensors are missing or differ "
            f"({wrong[0]} should be {list(expected[wrong[0]])} and is {'absent' if here is None else list(here)}): get the weights and the config of the same model."
        )


def skeleton(base: Base, component: str) -> torch.nn.Module:
    """The module of ``component`` without weights: parameters on the meta device, buffers as computed."""
    kind = class_of(base, component)
    with quiet(), init_empty_weights(include_buffers=False):
        if getattr(kind, "config_class", None):
            return kind(kind.config_class.from_pretrained(base.folder / component))
        return kind.from_config(base.config(component))


def _plain(name: str) -> str:
    """CLIP's names with and without ``text_model.``, which transformers 5 leaves out; ChatGLM's with and without ``transformer.``."""
    return name.removeprefix("text_model.").removeprefix("transformer.")


def _compute_rotary(model: torch.nn.Module, name: str) -> None:
    """Fill in the rotary frequencies where the checkpoint has none.

    The formula is ``RotaryEmbedding`` of diffusers/pipelines/kolors/text_encoder.py.
    """
    owner = model.get_submodule(name.rpartition(".")[0])
    size = 2 * len(owner.inv_freq)
    owner.inv_freq = 1.0 / 10000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
