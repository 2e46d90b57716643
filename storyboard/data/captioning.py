"""Captions for pictures that have none: Data-Juicer's ``image_captioning_mapper`` with a model of transformers."""

import re
from collections.abc import Sequence
from pathlib import Path

from storyboard import artifacts, show
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, DatasetError, SettingsError
from storyboard.models import loading, weights
from storyboard.settings import Settings

# what a camera, a browser or a hurried person calls a picture
LAZY = re.compile(
    r"(?:img|dsc[fn]?|pxl|image|photo|picture|pic|screenshot|untitled|unnamed|caption|none|null|n/a|todo|图片?|照片|截图|图像|未命名|无标题|无)?[\W\d_]*(?:copy|副本)?[\W\d_]*",
    re.IGNORECASE,
)


def lazy(text: str) -> bool:
    """Whether the caption ``text`` says nothing: it is empty, a number, or such as ``IMG_0012`` or ``图片 (3)``."""
    return bool(LAZY.fullmatch(text.strip()))


def write(paths: Sequence[Path], model: str, seed: int) -> list[str]:
    """A caption in English for each picture, sampled by Data-Juicer from ``seed``; such as are still empty are the model's.

    Args:
        model: A folder or an id at the hubs, with weights in safetensors: BLIP or another that takes a picture alone.

    Raises:
        BaseError, ResourceError: The model is not at hand and cannot be fetched.
        SettingsError: It is none that describes pictures.
        DatasetError: It failed over a picture.
    """
    from storyboard.data import juicer

    folder = weights.fetch_module(model, "the captioning model")
    if not list(folder.glob("*.safetensors")):
        raise SettingsError(
            f'captioner={model!r} has no safetensors weights in {folder}: set another, such as "Salesforce/blip-image-captioning-large".'
        )
    with juicer.data_juicer() as load_ops, quiet():
        from data_juicer.utils.mm_utils import SpecialTokens

        try:
            _check_weights(folder)
            (operator,) = load_ops(
                [
                    {
                        "image_captioning_mapper": {
                            "hf_img2seq": str(folder),
                            "keep_original_sample": False,
                            "num_proc": 1,
                            "skip_op_error": False,
                        }
                    }
                ]
            )
            operator.process_batched(_row(paths[0], SpecialTokens.image))
        # whatever a strange model brings about
        except (
            BaseError,
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            RuntimeError,
        ) as error:
            raise SettingsError(
                f'captioner={model!r} cannot describe pictures ({type(error).__name__}: {str(error).splitlines()[0]}): set another, such as "Salesforce/blip-image-captioning-large".'
            ) from error
        with show.Live("caption", len(paths)) as live:
            return [
                _caption(operator, path, seed + place, SpecialTokens, live)
                for place, path in enumerate(paths)
            ]


def _check_weights(folder: Path) -> None:
    """Raise BaseError unless all weights of the class that Data-Juicer loads are there: the rest would be random."""
    import transformers

    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).architectures[0]
    loading.pretrained(getattr(transformers, kind), folder, device_map="meta")


def _row(path: Path, text: str) -> dict:
    return {"text": [text], "images": [[str(path)]]}


def _caption(operator, path: Path, seed: int, tokens, live: show.Live) -> str:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            text = operator.process_batched(_row(path, tokens.image))["text"][0]
        except (OSError, ValueError, RuntimeError) as error:
            raise DatasetError(
                f"The captioning model failed over {path.name} ({type(error).__name__}: {str(error).splitlines()[0]}): give that picture a caption of your own."
            ) from error
    live.step(live.number + 1)
    return " ".join(text.replace(tokens.image, "").replace(tokens.eoc, "").split())


def mark(settings: Settings) -> list | None:
    """What the captions depend on, for a fingerprint; None where ``settings`` name no model."""
    return (
        [
            settings.captioner,
            settings.seed,
            artifacts.versions("py-data-juicer", "transformers", "torch"),
        ]
        if settings.captioner
        else None
    )
