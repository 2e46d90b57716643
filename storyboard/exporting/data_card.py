"""The data card of a bundle: counts, recipe and funnel of the training pictures."""

import re
from pathlib import Path

from storyboard import places
from storyboard.data import recipes
from storyboard.data.cleaning import CleaningReport
from storyboard.lora import file as lora_file
from storyboard.settings import Settings


def dataset_name(settings: Settings) -> str:
    """The data set's name, without a path of this machine."""
    is_id = places.looks_like_id(settings.dataset)
    if settings.dataset == "sample" or (is_id and not Path(settings.dataset).exists()):
        return settings.dataset
    return "own pictures"


def build(settings: Settings, lora: Path, report: CleaningReport | None) -> dict:
    """``data_card.json``; of a LoRA made elsewhere only what its metadata says."""
    metadata = lora_file.metadata(lora)
    card = {
        "dataset": dataset_name(settings),
        "trained_on": _count(metadata.get("ss_num_train_images")),
    }
    if report is None:
        return card

    process = recipes.read(settings.recipe).to_json()
    card["pictures"] = {
        "found": report.total,
        "kept": len(report.captions),
        "dropped": len(report.dropped),
        "unreadable": len(report.unreadable),
    }
    card["recipe"] = {"name": Path(settings.recipe).name, "process": _without_folders(process)}
    card["funnel"] = [
        {"operator": count.operator, "kept": count.kept, "dropped": count.dropped}
        for count in report.operators
    ]
    return card


def _count(text: str | None) -> int | None:
    """A number of pictures in a LoRA's metadata, which may be another program's."""
    return int(text) or None if text and re.fullmatch("[0-9]{1,9}", text) else None


def _without_folders(value):
    """A recipe's values, absolute paths (of models) by their last part alone."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value
