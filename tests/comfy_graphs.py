"""Panels to make graphs of ComfyUI from."""

import hashlib
import json

from storyboard.exporting.comfyui import reading
from storyboard.records import PanelRecord

FAMILIES = {
    "kolors": ("kolors", "KolorsPipeline"),
    "sdxl": ("sdxl", "StableDiffusionXLPipeline"),
    "sd15": ("sd15", "StableDiffusionPipeline"),
    "mini": ("kolors", "KolorsPipeline"),
    "my base (v2)": ("sd15", "StableDiffusionPipeline"),
}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def changed(panel, **fields):
    """``panel`` with other fields; a dict changes those of the record inside."""
    content = panel.model_dump()
    for name, value in fields.items():
        inside = isinstance(value, dict) and isinstance(content[name], dict)
        content[name] = content[name] | value if inside else value
    return PanelRecord.model_validate(content)


def drawn(panel, text_length, chunks=None):
    """``panel`` as it was drawn, alone."""
    facts = {"batch": 1, "row": 0, "vae_tiling": False, "text_length": text_length}
    return changed(panel, drawn=facts | {"chunks": chunks})


def panels(base, guidance_end=1.0, lora="abc", count=8):
    family, pipeline = FAMILIES[base]
    return [
        PanelRecord.model_validate(
            {
                "base": {"name": base, "family": family, "pipeline": pipeline},
                "lora": lora and {"digest": sha256(lora)},
                "width": 768,
                "height": 1024,
                "steps": 25,
                "guidance_scale": 5,
                "guidance_end": guidance_end,
                "prompt": f"紫色短发女孩 {index}",
                "negative_prompt": f"模糊 {index % 3}" if index else "",
                "seed": 7 + index,
            }
        )
        for index in range(count)
    ]


def follow(panel, number, control, controlnet=None, **fields):
    """``panel`` with a reference."""
    reference = {
        "control": control,
        "strength": 0.8,
        "file": f"panel-{number}-reference.png",
        "picture": "0" * 64,
    }
    if control != "image":
        reference["controlnet"] = sha256(controlnet or control)
    return changed(panel, reference=reference | fields)


def note(graph):
    """What the graph says, in the form that the page opens."""
    return next(
        node["widgets_values"][0] for node in graph["ui"]["nodes"] if node["type"] == "Note"
    )


def read_again(form):
    """The arguments that a graph is read as, by way of JSON."""
    return reading.read(json.loads(json.dumps(form)))


V_PREDICTION = {
    "base": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "schedule_type": "Simple",
}
