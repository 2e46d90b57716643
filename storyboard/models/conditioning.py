"""What prompts and captions become: text embeddings, by the very code of diffusers' pipelines, each computed once.

Words that weigh, and prompts too long for CLIP, are encoded by compel (CLIP) or by ``_weighted_chatglm``.
"""

import gc
import hashlib
import json
import math
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise

from storyboard import artifacts
from storyboard import prompts as syntax
from storyboard.compat import diffusers, transformers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, SettingsError
from storyboard.models import loading as models
from storyboard.models.bases import Base
from storyboard.models.run import Run

CLIP_LENGTH = 77  # tokens
MOST_CHUNKS = (
    12  # that prompts of different lengths are repeated to: the least common multiple of 1 to 4
)


class Adapter(Protocol):
    """What changes text encoders before they encode."""

    @property
    def fingerprint(self) -> str:
        """What the embeddings depend on beside the base."""

    def attach(self, pipe) -> None:
        """Change the text encoders of ``pipe``."""


@dataclass(frozen=True)
class Embedding:
    """A prompt's embeddings on the CPU: ``tokens`` (l, d) and ``pooled`` (p,), with p = 0 where the base has none.

    l is ``base.text_length`` or, for CLIP, a multiple of it. ``chunks`` are the prompt's parts that CLIP read one by
    one, each in the prompt's own syntax; () where it was read at once, or where a word had to be cut in two.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    chunks: tuple[str, ...] = ()


def encode(
    run: Run,
    prompts: Iterable[str],
    captions: Iterable[str] = (),
    adapter: Adapter | None = None,
) -> dict[str, Embedding]:
    """The embedding of every different prompt, from ``<output>/cache/text`` where it lies there already.

    ``prompts`` are parsed (``storyboard.prompts``); ``captions`` are literal, a bracket in them is a bracket: the
    result has them by ``prompts.literal(caption)``. CLIP reads what is longer than its 77 tokens in pieces.

    If any is missing, the text encoders are loaded, the missing ones encoded, and the encoders freed. One prompt at a
    time: an embedding then depends on nothing but its prompt. The empty prompt stands for "no negative prompt" and is
    encoded as the pipeline does it, with zeros for SDXL.

    Args:
        adapter: What changes the text encoders, such as a LoRA; such embeddings are kept beside the base's own.

    Raises:
        BaseError: The weights do not fit.
        LoraError: The LoRA file is no LoRA, or does not attach whole.
        SettingsError: A prompt has a bracket without its partner, or ``clip_skip`` leaves no layer of CLIP.
    """
    prompts = [*prompts, *map(syntax.literal, captions)]
    base, plan = run.base, run.plan
    device = "cpu" if plan.text_encoder_on_cpu else plan.device
    left_out = _layers_left_out(base, run.clip_skip)
    mark = artifacts.fingerprint(
        base=run.base_fingerprint,
        syntax="A1111, chunks",
        precision=plan.precision,
        bits=run.text_encoder_bits,
        clip_layers_left_out=left_out,
        versions=artifacts.versions("torch", "diffusers", "transformers", "compel"),
    )
    folder = run.folder / "cache" / "text" / mark[:16]
    if adapter is not None:
        folder /= adapter.fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        prompt: folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"
        for prompt in prompts
    }
    missing = [prompt for prompt, path in paths.items() if not path.is_file()]
    if missing:
        absent = {prompt: paths[prompt] for prompt in missing}
        _compute(base, absent, device, plan.dtype, run.text_encoder_bits, left_out, adapter)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return {prompt: _read(path) for prompt, path in paths.items()}


@quiet()
@torch.no_grad()
def _compute(
    base: Base,
    missing: dict[str, Path],
    device: str,
    dtype: torch.dtype,
    bits: int | None,
    left_out: int,
    adapter: Adapter | None,
) -> None:
    pipe = _text_pipeline(base, device, dtype, bits)
    if adapter is not None:
        adapter.attach(pipe)
    zeros = getattr(pipe.config, "force_zeros_for_empty_prompt", False)
    clip = base.family.text == "clip"
    if not base.family.chinese and (
        foreign := [prompt for prompt in missing if re.search(r"[\u4e00-\u9fff]", prompt)]
    ):
        print(
            f"text: {base.title} was taught in English; {len(foreign)} prompts and captions are in Chinese, such as {foreign[0][:40]}"
        )
    pieces = {prompt: syntax.parse(prompt) for prompt in missing}
    words = {prompt: syntax.plain(prompt) for prompt in missing}
    lengths = {prompt: len(pipe.tokenizer(text)["input_ids"]) for prompt, text in words.items()}
    if not clip:
        _warn_of_cuts(base, lengths)
    for prompt, path in missing.items():
        found, chunks = _encoded(pipe, words[prompt], device, left_out), []
        if clip and (lengths[prompt] > base.text_length or syntax.weighted(pieces[prompt])):
            with _without_last_layers(pipe, left_out):
                found["tokens"], chunks = _weighted_clip(pipe, pieces[prompt], device)
            if chunks:
                found["pooled"] = _encoded(pipe, syntax.plain(chunks[0]), device)["pooled"]
        elif syntax.weighted(pieces[prompt]):
            found = _weighted_chatglm(pipe, pieces[prompt], base.text_length, found)
        if not all(torch.isfinite(tensor).all() for tensor in found.values()):
            raise BaseError(
                f"The text encoder of {base.name!r} gave values that are not finite: its weights are damaged, get them again."
            )
        if zeros and not words[prompt]:
            found = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        _write(path, found, chunks)


def _write(path: Path, tensors: dict[str, torch.Tensor], chunks: list[str]) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    artifacts.write_atomically(path, serialise(tensors, metadata={"chunks": json.dumps(chunks)}))


def _read(path: Path) -> Embedding:
    with safe_open(path, "pt") as file:
        chunks = json.loads(file.metadata()["chunks"])
        return Embedding(file.get_tensor("tokens"), file.get_tensor("pooled"), tuple(chunks))


def _encoded(pipe, text: str, device: str, left_out: int = 0) -> dict[str, torch.Tensor]:
    """What the pipeline itself makes of ``text``, unweighted and cut where the encoder ends; ``pooled`` is of all layers."""
    encode = lambda: pipe.encode_prompt(
        prompt=text,
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    parts = encode()
    found = {
        "tokens": parts[0][0],
        "pooled": parts[2][0] if len(parts) == 4 else parts[0].new_zeros(0),
    }
    if left_out:
        with _without_last_layers(pipe, left_out):
            found["tokens"] = encode()[0][0]
    return found


def _layers_left_out(base: Base, clip_skip: int | None) -> int:
    """How many layers earlier than usual CLIP is read.

    Raises:
        SettingsError: The base's CLIP has fewer layers than ``clip_skip`` counts.
    """
    if clip_skip is None:
        return 0
    layers = base.config("text_encoder")["num_hidden_layers"]
    if clip_skip > layers:
        raise SettingsError(
            f"clip_skip={clip_skip} is more than the {layers} layers of the text encoder of {base.name!r}: set it to {layers} or less."
        )
    return clip_skip - base.clip_layer


def _without_last_layers(pipe, count: int) -> AbstractContextManager[None]:
    """Inside, the CLIP encoders of ``pipe`` lack their last ``count`` layers."""
    encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    present = [encoder for encoder in encoders if encoder is not None]
    return transformers.without_last_layers(present, count)


def _weighted_clip(
    pipe, pieces: list[tuple[str, float]], device: str
) -> tuple[torch.Tensor, list[str]]:
    """Tokens (77 n, d) of weighted pieces in n chunks of 75, cut where a phrase ends, by compel; and their ``_chunks``.

    A weight w of 1 or more puts a token z at ``empty + w (z - empty)``, empty being the empty prompt's embedding; one
    below 1 mixes the whole, at 1 : tan((1 - w) pi / 2), with the prompt in which those words are masked
    (https://github.com/damian0815/compel, ``EmbeddingsProvider``).
    """
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    kind = ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
    if getattr(pipe, "text_encoder_2", None) is not None:
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
        kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    said, weights = [list(side) for side in zip(*pieces)]
    providers = [
        EmbeddingsProvider(
            tokenizer,
            encoder,
            truncate=False,
            returned_embeddings_type=kind,
            split_long_text_mode=SplitLongTextMode.PHRASES,
        )
        for tokenizer, encoder in encoders
    ]
    tokens = [
        provider.get_embeddings_for_weighted_prompt_fragments([said], [weights], device=device)[0]
        for provider in providers
    ]
    ids, _, _ = providers[0].get_token_ids_and_expand_weights(said, weights, device)
    return torch.cat(tokens, dim=-1), _chunks(pipe.tokenizer, pieces, ids)


def _chunks(tokenizer, pieces: list[tuple[str, float]], ids: torch.Tensor) -> list[str]:
    """What each chunk of ``ids`` (77 n,) says, with its weights; [] where n is 1, or a word was cut in two.

    Args:
        ids: The tokens of ``pieces`` in n chunks, each with its start, end and padding.
    """
    length = tokenizer.model_max_length
    if len(ids) == length:
        return []
    chunks = [
        chunk[1 : chunk.index(tokenizer.eos_token_id)] for chunk in ids.reshape(-1, length).tolist()
    ]
    ends = [
        (piece, end)
        for piece, (text, _) in enumerate(pieces)
        for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    ]

    found, start, token = [], (0, 0), 0
    for chunk in chunks:
        token += len(chunk)
        stop = ends[token - 1] if token < len(ends) else (len(pieces) - 1, len(pieces[-1][0]))
        found.append(_between(pieces, start, stop))
        start = stop

    # a word that was cut in two has other tokens when each half is read alone
    said = [
        [
            token
            for text, _ in parts
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
        for parts in found
    ]
    return [syntax.written(parts) for parts in found] if said == chunks else []


def _between(
    pieces: list[tuple[str, float]], start: tuple[int, int], stop: tuple[int, int]
) -> list[tuple[str, float]]:
    """The part of ``pieces`` from ``start`` to ``stop``, each the index of a piece and a place in its text."""
    parts = []
    for index in range(start[0], stop[0] + 1):
        text, weight = pieces[index]
        low, high = start[1] if index == start[0] else 0, stop[1] if index == stop[0] else len(text)
        parts += [(text[low:high], weight)] if high > low else []
    return parts


def _weighted_chatglm(
    pipe, pieces: list[tuple[str, float]], length: int, found: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``found``, the unweighted embedding z, and for each piece of weight w the sum of ``(w - 1) (z - without)``.

    ``without`` is the embedding of the prompt without that piece, so that a weight of 0 is as if it had not been said.
    The piece's own tokens have padding there; those before do not see it (attention is causal); those behind,
    ``pooled``, the last one's state, and the padding, which alone sees the whole prompt, carry its meaning.
    """
    text = "".join(said for said, _ in pieces)
    offsets = diffusers.chatglm_offsets(pipe.tokenizer, text)
    first = max(
        2, length - len(offsets)
    )  # padded on the left; behind [gMASK] and sop where it is cut
    tokens, pooled, start = found["tokens"].clone(), found["pooled"].clone(), 0
    for place, (said, weight) in enumerate(pieces):
        end = start + len(said)
        if weight != 1:
            without = _encoded(
                pipe,
                "".join(other for there, (other, _) in enumerate(pieces) if there != place),
                found["tokens"].device,
            )
            padding = slice(0, first - 2)  # before [gMASK] and sop
            own = [
                first + at
                for at, (low, high) in enumerate(offsets)
                if low < end and high > start and first + at < length
            ]
            whole = sum(low < end and high > start for low, high in offsets)
            shift = (
                first - max(2, length - len(offsets) + whole) + whole
            )  # where both are cut, what is behind stands further left in the shorter one
            behind = own[-1] + 1 if own else length
            for places in (padding, own):
                tokens[places] += (weight - 1) * (found["tokens"][places] - without["tokens"][0])
            tokens[behind:] += (weight - 1) * (
                found["tokens"][behind:] - without["tokens"][behind - shift : length - shift]
            )
            pooled += (weight - 1) * (found["pooled"] - without["pooled"])
        start = end
    return found | {"tokens": tokens, "pooled": pooled}


def common_length(lengths: Iterable[int]) -> int:
    """The least common multiple of ``lengths``, in tokens; the longest where it would be more than MOST_CHUNKS times 77."""
    lengths = list(lengths)
    common = math.lcm(*lengths)
    return common if common <= max(MOST_CHUNKS * CLIP_LENGTH, *lengths) else max(lengths)


def stack(embeddings: Iterable[Embedding], length: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n embeddings -> tokens (n, l, d), pooled (n, p); l is the least common multiple of their lengths.

    Each is repeated to l: attention then weighs all its tokens alike, and gives what it gives alone. Where l is bounded
    (``common_length``) the last repetition is cut.

    Args:
        length: Taken for l where it is a multiple of that.
    """
    embeddings = list(embeddings)
    common = common_length(len(each.tokens) for each in embeddings)
    if length and length % common == 0:
        common = length
    tokens = [each.tokens.repeat(-(-common // len(each.tokens)), 1)[:common] for each in embeddings]
    return torch.stack(tokens), torch.stack([each.pooled for each in embeddings])


def _text_pipeline(base: Base, device: str, dtype: torch.dtype, bits: int | None):
    """The pipeline of ``base`` with its text encoders alone."""
    options = _quantised(bits, dtype)
    parts = {}
    for component in base.components:
        if component.startswith("text_encoder"):
            parts[component] = models.load(base, component, dtype, device, **options)
            parts[component.replace("text_encoder", "tokenizer")] = models.tokenizer(
                base, component
            )
    return models.pipeline(base, **parts)


def _quantised(bits: int | None, dtype: torch.dtype) -> dict[str, object]:
    if bits is None:
        return {}
    from transformers import BitsAndBytesConfig

    how = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == 8
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
    )
    return {"quantization_config": how, "device_map": {"": 0}}


def _warn_of_cuts(base: Base, lengths: dict[str, int]) -> None:
    if cut := [prompt for prompt, length in lengths.items() if length > base.text_length]:
        print(
            f"text: {len(cut)} prompts and captions are longer than {base.text_length} tokens, the rest of them is not read, such as {cut[-1][:60]}…"
        )
