"""Prompts and captions -> text embeddings, each computed once and kept on disk.

How a family's encoders read a prompt is said in ``text_clip.py`` and ``text_chatglm.py``.
"""

import gc
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from storyboard import artifacts
from storyboard import prompts as syntax
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, SettingsError, StoryboardError, brief
from storyboard.models import embedding_files
from storyboard.models import loading as models
from storyboard.models.bases import Base
from storyboard.models.run import Run
from storyboard.models.text_encoding import Embedding, TextEncoding, encoding_of
from storyboard.models.text_pipeline import text_pipeline

MOST_CHUNKS = 12  # of a batch's common length: the least common multiple of 1 to 4
CACHE = Path("cache", "text")  # in the output folder
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Adapter(Protocol):
    """What changes text encoders before they encode."""

    @property
    def fingerprint(self) -> str:
        """What the embeddings depend on besides the base."""

    def attach(self, pipe) -> None:
        """Change the text encoders of ``pipe``."""


def encode(
    run: Run,
    prompts: Iterable[str],
    captions: Iterable[str] = (),
    adapter: Adapter | None = None,
) -> dict[str, Embedding]:
    """The embedding of every different prompt, from ``<output>/cache/text`` where it is there.

    ``prompts`` are parsed (``storyboard.prompts``); ``captions`` are literal, a bracket in them is
    a bracket: the result has them by ``prompts.literal(caption)``. CLIP reads in chunks what is
    longer than its 77 tokens.

    If any is missing, the text encoders are loaded, the missing ones encoded, and the encoders
    freed. One prompt at a time: an embedding then depends on nothing but its prompt. The empty
    prompt stands for "no negative prompt" and is encoded as the pipeline does it, with zeros for
    SDXL.

    Args:
        adapter: What changes the text encoders, such as a LoRA; such embeddings have a folder of
            their own.

    Raises:
        BaseError: The weights or a tokenizer are damaged or do not fit.
        LoraError: The LoRA file is no LoRA, or does not attach whole.
        SettingsError: A prompt has a bracket without its partner or weights that overflow, or
            ``clip_skip`` leaves no layer of CLIP.
    """
    paths, length = _paths(run, prompts, captions, adapter), run.base.text_length
    embeddings = {prompt: embedding_files.read(path, length) for prompt, path in paths.items()}
    missing = {prompt: paths[prompt] for prompt, found in embeddings.items() if found is None}
    if missing:
        _make(run, missing, adapter)
        embedding_files.forget_oldest(run.folder / CACHE, set(paths.values()))
        read_back = embedding_files.read_back
        embeddings |= {prompt: read_back(path, length) for prompt, path in missing.items()}
    return embeddings


def keep(run: Run, prompts: Iterable[str], captions: Iterable[str] = ()) -> dict[str, Path]:
    """Where on disk ``encode`` keeps each embedding; one at a time is in memory for it.

    Nothing is forgotten for it.

    Raises:
        BaseError, SettingsError: As ``encode``.
    """
    paths = _paths(run, prompts, captions)
    if missing := _damaged_or_missing(paths, run):
        _make(run, missing, None)
    return paths


def encode_ahead(run: Run, prompts: Iterable[str], adapter: Adapter | None) -> None:
    """Keep on disk what ``encode`` will be asked for, one embedding in memory at a time.

    Nothing is forgotten for it: the caller does so when all were used. A prompt whose weights
    overflow is left to ``encode``.

    Raises:
        BaseError, LoraError, SettingsError: As ``encode``.
    """
    if missing := _damaged_or_missing(_paths(run, prompts, (), adapter), run):
        _make(run, missing, adapter, leaves_overflows=True)


def missing(run: Run, prompts: Iterable[str], captions: Iterable[str] = ()) -> list[str]:
    """Those of which no embedding is on disk, as keys of ``encode``; files are not looked into."""
    paths = _paths(run, prompts, captions)
    return [prompt for prompt, path in paths.items() if not path.is_file()]


def _paths(
    run: Run, prompts: Iterable[str], captions: Iterable[str], adapter: Adapter | None = None
) -> dict[str, Path]:
    """Where the embedding of each prompt is kept, and of each caption as ``prompts.literal``."""
    folder = _cache_folder(run, adapter)
    texts = [*prompts, *map(syntax.literal, captions)]
    return {text: embedding_files.path(folder, text) for text in texts}


def _damaged_or_missing(paths: Mapping[str, Path], run: Run) -> dict[str, Path]:
    length = run.base.text_length
    return {text: path for text, path in paths.items() if not embedding_files.read(path, length)}


def common_length(lengths: Iterable[int], text_length: int) -> int:
    """Tokens that embeddings of different ``lengths`` are repeated to in one batch.

    That is their least common multiple; the longest where it would be more than MOST_CHUNKS times
    ``text_length``, the tokens that an encoder reads at once.
    """
    lengths = list(lengths)
    common = math.lcm(*lengths)
    return common if common <= max(MOST_CHUNKS * text_length, *lengths) else max(lengths)


def stack(embeddings: Iterable[Embedding], length: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n embeddings -> tokens (n, l, d), pooled (n, p), with l their ``common_length``.

    Each is repeated to l: attention then weighs all its tokens alike, and gives what it gives
    alone. Where l is bounded, the last repetition is cut.

    Args:
        length: Taken for l where it is a multiple of that.
    """
    embeddings = list(embeddings)
    lengths = [len(each.tokens) for each in embeddings]
    text_length = max(each.text_length or len(each.tokens) for each in embeddings)
    common = common_length(lengths, text_length)
    if length and length % common == 0:
        common = length
    tokens = [each.tokens.repeat(-(-common // len(each.tokens)), 1)[:common] for each in embeddings]
    return torch.stack(tokens), torch.stack([each.pooled for each in embeddings])


def _cache_folder(run: Run, adapter: Adapter | None) -> Path:
    """Where embeddings of this base, precision and adapter are kept; it is made if need be."""
    packages = ["torch", "diffusers", "transformers", "compel"]
    packages += ["bitsandbytes"] if run.text_encoder_bits else []
    fingerprint = artifacts.fingerprint(
        base=run.base_fingerprint,
        syntax="A1111, chunks",
        precision=run.plan.precision,
        bits=run.text_encoder_bits,
        clip_layers_left_out=_layers_left_out(run.base, run.clip_skip),
        versions=artifacts.versions(*packages),
    )
    folder = run.folder / CACHE / fingerprint[:16]
    folder = folder if adapter is None else folder / adapter.fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _layers_left_out(base: Base, clip_skip: int | None) -> int:
    """How many layers earlier than usual CLIP is read.

    Raises:
        SettingsError: The base's CLIP has fewer layers than ``clip_skip`` counts.
    """
    if clip_skip is None:
        return 0
    layers = base.config("text_encoder").get("num_hidden_layers")
    if not isinstance(layers, int):
        raise BaseError(
            f"{base.root / 'text_encoder' / 'config.json'} does not say num_hidden_layers, which "
            f"clip_skip={clip_skip} counts from: get it again, or set clip_skip=None."
        )
    if clip_skip > layers:
        raise SettingsError(
            f"clip_skip={clip_skip} is more than the {layers} layers of the text encoder of "
            f"{base.name!r}: set it to {layers} or less."
        )
    return clip_skip - base.clip_layer


def _make(
    run: Run, missing: Mapping[str, Path], adapter: Adapter | None, leaves_overflows: bool = False
) -> None:
    """``_compute``, with nothing of it left in memory."""
    if damaged := [path for path in missing.values() if path.is_file()]:
        folder = damaged[0].parent
        print(f"text: {len(damaged)} embeddings kept in {folder} are damaged, they are made again")
    _compute(run, missing, adapter, leaves_overflows)
    gc.collect()
    if _device(run) == "cuda":
        torch.cuda.empty_cache()


@quiet()
@torch.no_grad()
def _compute(
    run: Run, missing: Mapping[str, Path], adapter: Adapter | None, leaves_overflows: bool
) -> None:
    """Encode each prompt of ``missing`` and write its embedding to its path."""
    base, device = run.base, _device(run)
    models.check_layouts(base)
    pipe = text_pipeline(base, device, run.plan.dtype, run.text_encoder_bits)
    if adapter is not None:
        adapter.attach(pipe)
    encoding = encoding_of(base.family)(
        pipe, base.text_length, device, _layers_left_out(base, run.clip_skip)
    )
    _print_foreign(base, missing)
    _print_cut(encoding, [prompt for prompt in missing if encoding.is_cut(prompt)])

    empty_is_zero = getattr(pipe.config, "force_zeros_for_empty_prompt", False)
    for prompt, path in missing.items():
        embedding = encoding.encode(prompt)
        if not _is_finite(embedding):
            error = _not_finite(base, pipe, encoding, prompt)
            if leaves_overflows and isinstance(error, SettingsError):
                continue
            raise error
        if empty_is_zero and not syntax.plain(prompt):
            tokens, pooled = map(torch.zeros_like, (embedding.tokens, embedding.pooled))
            embedding = replace(embedding, tokens=tokens, pooled=pooled)
        embedding_files.write(path, embedding)


def _is_finite(embedding: Embedding) -> bool:
    return all(torch.isfinite(each).all() for each in (embedding.tokens, embedding.pooled))


def _not_finite(base: Base, pipe, encoding: TextEncoding, prompt: str) -> StoryboardError:
    """The error for a prompt whose embedding is not finite: by its weights, or the encoder's."""
    pieces = syntax.parse(prompt)
    plain = syntax.literal(syntax.plain(prompt))
    if syntax.weighted(pieces) and _is_finite(encoding.encode(plain)):
        heaviest = max(weight for _, weight in pieces)
        return SettingsError(
            f"The prompt {brief(prompt)} weighs words by up to {heaviest:g}, and its embedding "
            "overflows: write smaller weights."
        )

    parts = [name for name in base.components if name.startswith("text_encoder")]
    where = models.damaged({name: getattr(pipe, name) for name in parts})
    return BaseError(
        f"The text encoder of {base.name!r} gave values that are not finite"
        f"{f' ({where})' if where else ''}: its weights are damaged, get them again."
    )


def _device(run: Run) -> str:
    """Where the text encoders run."""
    return "cpu" if run.plan.text_encoder_on_cpu else run.plan.device


def _print_foreign(base: Base, prompts: Iterable[str]) -> None:
    chinese = [prompt for prompt in prompts if CHINESE.search(prompt)]
    if chinese and not base.family.chinese:
        print(
            f"text: {base.title} was taught in English; {len(chinese)} prompts and captions are in "
            f"Chinese, such as {chinese[0][:40]}"
        )


def _print_cut(encoding: TextEncoding, prompts: list[str]) -> None:
    if prompts:
        print(
            f"text: {len(prompts)} prompts and captions are longer than {encoding.most_tokens} "
            f"tokens, the rest of them is not read, such as {prompts[-1][:60]}…"
        )
