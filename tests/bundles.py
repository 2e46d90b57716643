"""Story bundles to test with: taken apart, changed and put together again."""

import json
import zipfile

from storyboard.exporting.bundle import zipped
from storyboard.records import PanelRecord


def rewritten(found, path, **changes):
    """The bundle with other files (``story_json=...``), at ``path``."""
    with zipfile.ZipFile(found.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    changed = {name.replace("_", "."): content for name, content in changes.items()}
    path.write_bytes(zipped(files | changed))
    return path


def story_of(found):
    with zipfile.ZipFile(found.path) as archive:
        return json.loads(archive.read("story.json"))


def with_story(found, path, story):
    """The bundle with another ``story.json``."""
    return rewritten(found, path, story_json=json.dumps(story).encode())


def format_1(story):
    """``story.json`` as the version before wrote it."""
    return {
        "format": 1,
        "panels": [_version_1(PanelRecord.from_json(content)) for content in story["panels"]],
        "settings": {"text_encoder_bits": None, "text_encoder_on_cpu": None},
    }


def _version_1(panel):
    names = ("prompt", "negative_prompt", "seed", "width", "height", "steps", "guidance_scale")
    names += ("guidance_end", "sampler", "schedule_type", "precision", "versions")
    content = {name: getattr(panel, name) for name in names}
    content |= {
        "base": panel.base.name,
        "pipeline": panel.base.pipeline,
        "base_fingerprint": panel.base.fingerprint,
        "lora": panel.lora.digest,
        "lora_tensors": panel.lora.tensors_digest,
    }
    if panel.base.prediction_type != "epsilon":
        content["prediction_type"] = panel.base.prediction_type
        content["zero_terminal_snr"] = panel.base.zero_terminal_snr
    if panel.lora.text_encoder:
        content["lora_text_encoder"] = True
    if panel.clip_skip:
        content["clip_skip"] = panel.clip_skip
    if panel.reference:
        content["reference"] = panel.reference.model_dump(mode="json")
        if panel.reference.control == "image":
            for name in ("end", "prepared", "model", "controlnet", "annotator", "versions"):
                del content["reference"][name]
    if panel.character:
        character = panel.character.model_dump(mode="json", exclude_none=True)
        names = {"method": "by", "source": "of"}
        content["heroine"] = {names.get(key, key): value for key, value in character.items()}
    return content | panel.drawn.model_dump(mode="json", exclude_none=True)
