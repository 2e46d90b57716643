"""What a picture says of itself: A1111's ``parameters`` text and our JSON, in the PNG."""

import json

from PIL.PngImagePlugin import PngInfo


def parameters(panel: dict) -> str:
    """The ``parameters`` text as AUTOMATIC1111's web UI writes it (modules/processing.py, create_infotext)."""
    facts = {
        "Steps": panel["steps"], "Sampler": panel["sampler"], "Schedule type": panel["schedule_type"], "CFG scale": f"{panel['guidance_scale']:g}",
        "Seed": panel["seed"], "Size": f"{panel['width']}x{panel['height']}", "Model hash": panel["base_fingerprint"][:10], "Model": panel["base"],
    }
    if panel["lora"]:
        facts["Lora hashes"] = f'"story: {panel["lora"][:12]}"'
    lines = [panel["prompt"]]
    if panel["negative_prompt"]:
        lines.append(f"Negative prompt: {panel['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in facts.items())])


def info(panel: dict) -> PngInfo:
    """Text chunks for a panel; iTXt, because prompts are Chinese."""
    chunks = PngInfo()
    chunks.add_itxt("parameters", parameters(panel))
    chunks.add_itxt("storyboard", json.dumps(panel, ensure_ascii=False, sort_keys=True))
    return chunks
