"""The embedded base is really trained: it draws a face with the hair colour that was asked for."""

import colorsys
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Settings
from storyboard.models import bases, conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from storyboard.rendering import sampling

RENDERS = Path(__file__).resolve().parents[1] / "benchmarks" / "renders"
HUES = {"紫色": (250, 310), "绿色": (100, 170), "红色": (345, 20), "蓝色": (200, 235)}


def share_of_hue(image, low, high):
    """Part of the upper half's strongly coloured pixels with a hue, in degrees, in the range."""
    pixels = np.asarray(image.resize((48, 48)).crop((0, 0, 48, 28)), float).reshape(-1, 3) / 255
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels])
    strong = hsv[(hsv[:, 1] > 0.45) & (hsv[:, 2] > 0.3)]
    hue = strong[:, 0] * 360
    return (
        np.mean((hue >= low) & (hue <= high) if low < high else (hue >= low) | (hue <= high))
        if len(strong)
        else 0.0
    )


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    base, settings = bases.get("mini"), Settings(output=str(tmp_path_factory.mktemp("faces")))
    plan = memory.plan(base, settings)
    pipe = sampling.load_pipeline(base, plan)
    prompts = [f"卡通，{hair}长发女孩，微笑，白色衣服，白色背景" for hair in HUES] + [
        f"cartoon, a girl with long {hair} hair, smiling, white clothes, white background"
        for hair in ("purple", "green", "red", "blue")
    ]
    prompt_embeds = conditioning.encode(
        replace(run_on(base, settings), plan=plan), [*prompts, "模糊，低质量"]
    )
    return list(
        sampling.draw(
            pipe,
            [prompt_embeds[prompt] for prompt in prompts],
            [prompt_embeds["模糊，低质量"]] * len(prompts),
            list(range(len(prompts))),
            base.resolution,
            15,
            base.guidance_scale,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_hair_has_the_asked_colour(faces, language):
    shown = faces[:4] if language == "zh" else faces[4:]
    for image, (name, (low, high)) in zip(shown, HUES.items(), strict=True):
        others = [share_of_hue(image, *bounds) for other, bounds in HUES.items() if other != name]
        assert share_of_hue(image, low, high) > max(0.3, 2 * max(others)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "least"),
    [("avataaars", 35), ("personas", 37), ("toonHead", 35), ("micah", 35), ("lorelei", 30.5)],
)
def test_the_vae_gives_back_held_out_art(style, least):
    """256 x 256 renders that ``mini`` was not trained on; Lorelei is a style that it never saw."""
    vae, shown = models.load(bases.get("mini"), "vae", torch.float32), []
    rows = [
        row
        for row in json.loads((RENDERS / "meta.json").read_text(encoding="utf-8"))
        if row["style"] == style
    ][:8]
    for row in rows:
        with Image.open(RENDERS / f"{row['id']}.webp") as image:
            target = (
                torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None].float()
                / 127.5
                - 1
            )
        with torch.no_grad():
            decoded = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        shown.append(float(10 * torch.log10(4 / (decoded - target).square().mean())))
    assert target.shape == (1, 3, 256, 256) and np.mean(shown) >= least, f"{np.mean(shown):.1f} dB"
