"""What prompts and captions become: text embeddings, by the very code of diffusers' pipelines, each computed once."""

import gc
import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from . import artifacts, models
from .bases import Base
from .errors import BaseError
from .memory import Plan
from .quiet import quiet
from .settings import Settings


@dataclass(frozen=True)
class Embedding:
    """A prompt's embeddings on the CPU: ``tokens`` (l, d) and ``pooled`` (p,), with p = 0 where the base has none."""

    tokens: torch.Tensor
    pooled: torch.Tensor


def encode(base: Base, prompts: Iterable[str], settings: Settings, plan: Plan) -> dict[str, Embedding]:
    """The embedding of every different prompt, from ``<output>/cache/text`` where it lies there already.

    If any is missing, the text encoders are loaded, the missing ones encoded, and the encoders freed. One prompt at a
    time: an embedding then depends on nothing but its prompt. The empty prompt stands for "no negative prompt" and is
    encoded as the pipeline does it, with zeros for SDXL.

    Raises:
        BaseError: The weights do not fit.
    """
    device = "cpu" if plan.text_encoder_on_cpu else plan.device
    mark = artifacts.fingerprint(base=base.fingerprint(), precision=plan.precision, bits=settings.text_encoder_bits, versions=artifacts.versions("torch", "diffusers", "transformers"))
    folder = settings.folder / "cache" / "text" / mark[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)  # of another base or precision
    folder.mkdir(parents=True, exist_ok=True)
    paths = {prompt: folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors" for prompt in prompts}
    missing = [prompt for prompt, path in paths.items() if not path.is_file()]
    if missing:
        _compute(base, {prompt: paths[prompt] for prompt in missing}, device, plan.dtype, settings.text_encoder_bits)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return {prompt: Embedding(**load_file(path)) for prompt, path in paths.items()}


@torch.no_grad()
def _compute(base: Base, missing: dict[str, Path], device: str, dtype: torch.dtype, bits: int | None) -> None:
    pipe = _text_pipeline(base, device, dtype, bits)
    zeros = getattr(pipe.config, "force_zeros_for_empty_prompt", False)
    if base.pipeline != "KolorsPipeline" and (foreign := [prompt for prompt in missing if re.search(r"[\u4e00-\u9fff]", prompt)]):
        print(f"text: {base.title} was taught in English; {len(foreign)} prompts and captions are in Chinese, such as {foreign[0][:40]}")
    _warn_of_cuts(pipe, base, missing)
    for prompt, path in missing.items():
        with quiet():
            parts = pipe.encode_prompt(prompt=prompt, device=torch.device(device), num_images_per_prompt=1, do_classifier_free_guidance=False)
        found = {"tokens": parts[0][0], "pooled": parts[2][0] if len(parts) == 4 else parts[0].new_zeros(0)}
        if not all(torch.isfinite(tensor).all() for tensor in found.values()):
            raise BaseError(f"The text encoder of {base.name!r} gave values that are not finite: its weights are damaged, get them again.")
        if zeros and not prompt:
            found = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        artifacts.write_atomically(path, serialise({name: tensor.cpu().contiguous() for name, tensor in found.items()}))


def stack(embeddings: Iterable[Embedding]) -> tuple[torch.Tensor, torch.Tensor]:
    """n embeddings -> tokens (n, l, d), pooled (n, p)."""
    embeddings = list(embeddings)
    return torch.stack([each.tokens for each in embeddings]), torch.stack([each.pooled for each in embeddings])


def _text_pipeline(base: Base, device: str, dtype: torch.dtype, bits: int | None):
    """The pipeline of ``base`` with its text encoders alone."""
    options = _quantised(bits, dtype)
    parts = {}
    for component in base.components:
        if component.startswith("text_encoder"):
            parts[component] = models.load(base, component, dtype, **options)
            parts[component.replace("text_encoder", "tokenizer")] = models.tokenizer(base, component)
            if not options:
                parts[component].to(device)
    return models.pipeline(base, **parts)


def _quantised(bits: int | None, dtype: torch.dtype) -> dict[str, object]:
    if bits is None:
        return {}
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": how, "device_map": {"": 0}}


def _warn_of_cuts(pipe, base: Base, prompts: Iterable[str]) -> None:
    lengths = {prompt: len(pipe.tokenizer(prompt)["input_ids"]) for prompt in prompts}
    if cut := [prompt for prompt, length in lengths.items() if length > base.text_length]:
        print(f"text: {len(cut)} prompts and captions are longer than {base.text_length} tokens, the rest of them is not read, such as {cut[-1][:60]}…")
