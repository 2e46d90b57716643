"""Captions for pictures that have none: from a template, a folder's name, or a model.

The model is run by Data-Juicer's ``image_captioning_mapper``.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from storyboard import artifacts, show
from storyboard.compat.data_juicer import data_juicer
from storyboard.compat.quiet import quiet
from storyboard.data import text_files
from storyboard.data.listing import ListedPicture
from storyboard.data.text_files import Refusal
from storyboard.data.tree import KOHYA_FOLDER
from storyboard.errors import BaseError, DatasetError, ResourceError, SettingsError, reason
from storyboard.models import weights
from storyboard.settings import Settings

# what a camera, a browser or a hurried person calls a picture, perhaps with a number
PLACEHOLDER = re.compile(
    r"(?:img|dsc[fn]?|pxl|image|photo|picture|pic|screenshot|untitled|unnamed|caption|none|null"
    r"|n/a|todo|图片?|照片|截图|图像|未命名|无标题|无)?[\W\d_]*+(?:copy|副本)?[\W\d_]*+",
    re.IGNORECASE,
)
UNREADABLE_NAME = "has no caption, and no words are taken from its path, which is not UTF-8"
SUGGESTION = 'set another, such as "Salesforce/blip-image-captioning-large"'


def is_placeholder(text: str) -> bool:
    """Whether a caption says nothing: empty, a number, or such as ``IMG_0012`` or ``图片 (3)``."""
    return bool(PLACEHOLDER.fullmatch(text.strip()))


def without_placeholder(
    picture: ListedPicture, source: Path, template: str | None
) -> ListedPicture:
    """``picture`` of the folder ``source``; a placeholder for a caption is replaced.

    Args:
        template: May hold ``{folder}`` and ``{file}``. None: the concept of a folder that is named
            as kohya's scripts want it, elsewhere an empty caption.

    Raises:
        SettingsError: The template makes a caption that is too long.
    """
    if picture.file is None or not is_placeholder(picture.text):
        return picture
    folder = _folder_name(picture, source)
    concept = KOHYA_FOLDER.fullmatch(folder)
    if template is None:
        text = concept[2] if concept else ""
    else:
        text = template.replace("{folder}", concept[2] if concept else folder)
        text = text.replace("{file}", Path(picture.name).stem)
    if "\ufffd" in text:  # a sign in place of what is no text would become a word
        return replace(picture, text="", note=UNREADABLE_NAME)
    try:
        return replace(picture, text=text_files.caption(text).text)
    except Refusal as refusal:
        raise SettingsError(
            f"caption_template={(template or '')[:60]!r} makes a caption that {refusal}."
        ) from refusal


def kohya_repeats(listed: Iterable[ListedPicture], source: Path) -> set[str]:
    """The different numbers of repeats in the folders' names."""
    concepts = (KOHYA_FOLDER.fullmatch(_folder_name(picture, source)) for picture in listed)
    return {concept[1] for concept in concepts if concept}


def _folder_name(picture: ListedPicture, source: Path) -> str:
    """Name of the folder that ``picture`` lies in, which may be ``source`` itself."""
    return (source.resolve().name / Path(picture.name)).parent.name


def describe(paths: Sequence[Path], model: str, seed: int) -> list[str]:
    """A caption in English for each picture, sampled from ``seed`` on; may come out empty.

    Args:
        model: A folder or an id at the hubs, with weights in safetensors: BLIP or another that
            takes a picture alone.

    Raises:
        BaseError, ResourceError: The model is not at hand and cannot be fetched.
        SettingsError: It is none that describes pictures.
        DatasetError: It failed at a picture.
    """
    folder = weights.fetch_module(model, "the captioning model")
    if not list(folder.glob("*.safetensors")):
        raise SettingsError(
            f"captioner={model!r} has no safetensors weights in {folder}: {SUGGESTION}."
        )
    with data_juicer() as ops, quiet():
        operator = _load(ops, folder, model, paths[0])
        captions = []
        with show.Live("caption", len(paths)) as live:
            for index, path in enumerate(paths):
                captions.append(_caption(operator, path, seed + index))
                live.step(index + 1)
    return captions


def _load(ops, folder: Path, model: str, picture: Path):
    """Data-Juicer's operator, tried at ``picture``.

    Raises:
        SettingsError: The model is none that describes pictures.
    """
    import torch

    parameters = {
        "hf_img2seq": str(folder),
        "keep_original_sample": False,
        "num_proc": 1,
        "skip_op_error": False,
    }
    try:
        _check_weights(folder)
        with _random_states_kept():
            (operator,) = ops.load_ops([{"image_captioning_mapper": parameters}])
            _run(operator, picture)
    except (torch.OutOfMemoryError, ResourceError):
        raise
    # transformers and Data-Juicer raise anything at all for a model of another kind
    except Exception as error:
        raise SettingsError(
            f"captioner={model!r} cannot describe pictures ({reason(error)}): {SUGGESTION}."
        ) from error
    return operator


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Inside, torch's and Python's random numbers may be drawn: Data-Juicer draws of both."""
    import torch

    state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)


def _check_weights(folder: Path) -> None:
    """Raise BaseError unless all weights of the class that Data-Juicer loads are there.

    transformers would fill the rest with random numbers.
    """
    import transformers

    from storyboard.models import loading

    loading.check_folder(folder, "name another captioner")
    # by itself it asks at the keyboard whether to run code of the folder
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    architectures = config.architectures or [None]
    model_class = getattr(transformers, str(architectures[0]), None)
    if model_class is None:
        raise BaseError(
            f"{folder / 'config.json'} names no class of transformers in architectures: "
            "take another captioner."
        )
    loading.pretrained(model_class, folder, device_map="meta")


def _caption(operator, path: Path, seed: int) -> str:
    import torch

    with _random_states_kept():
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            return _run(operator, path)
        except torch.OutOfMemoryError:
            raise
        # the model's own code raises anything at all
        except Exception as error:
            raise DatasetError(
                f"The captioning model failed at {path.name} ({reason(error)}): "
                "give that picture a caption of your own."
            ) from error


def _run(operator, path: Path) -> str:
    from data_juicer.utils.mm_utils import SpecialTokens

    row = {"text": [SpecialTokens.image], "images": [[str(path)]]}
    text = operator.process_batched(row)["text"][0]
    return " ".join(text.replace(SpecialTokens.image, "").replace(SpecialTokens.eoc, "").split())


def fingerprint_inputs(settings: Settings) -> list | None:
    """What the model's captions depend on; None where ``settings`` name no model."""
    if not settings.captioner:
        return None
    versions = artifacts.versions("py-data-juicer", "transformers", "torch")
    return [settings.captioner, settings.seed, versions]
