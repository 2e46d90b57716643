"""The embedded base is really trained: it draws a face with the hair colour that was asked for."""

import colorsys

import numpy as np
import pytest
import torch

from storyboard import bases
from storyboard.rendering import drawing

HUES = {"紫色": (250, 310), "绿色": (100, 170), "红色": (345, 20), "蓝色": (200, 235)}


def share_of_hue(image, low, high):
    """Part of the upper half's strongly coloured pixels whose hue, in degrees, lies in the range."""
    pixels = np.asarray(image.resize((48, 48)).crop((0, 0, 48, 28)), float).reshape(-1, 3) / 255
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels])
    strong = hsv[(hsv[:, 1] > 0.45) & (hsv[:, 2] > 0.3)]
    hue = strong[:, 0] * 360
    return np.mean((hue >= low) & (hue <= high) if low < high else (hue >= low) | (hue <= high)) if len(strong) else 0.0


@pytest.fixture(scope="module")
def faces():
    base = bases.get("mini")
    pipe = drawing.load_pipeline(base)
    prompts = [f"卡通，{hair}长发女孩，微笑，白色衣服，白色背景" for hair in HUES] + [f"cartoon, a girl with long {hair} hair, smiling, white clothes, white background" for hair in ("purple", "green", "red", "blue")]
    negative = drawing.encode(pipe, ["模糊，低质量"] * len(prompts))
    return drawing.draw(pipe, drawing.encode(pipe, prompts), negative, list(range(len(prompts))), base.resolution, 15, base.guidance_scale)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_hair_has_the_asked_colour(faces, language):
    shown = faces[:4] if language == "zh" else faces[4:]
    for image, (name, (low, high)) in zip(shown, HUES.items()):
        others = [share_of_hue(image, *bounds) for other, bounds in HUES.items() if other != name]
        assert share_of_hue(image, low, high) > max(0.3, 2 * max(others)), name


def test_the_vae_gives_back_what_it_was_given():
    from PIL import Image

    from storyboard import dataset

    pipe = drawing.load_pipeline(bases.get("mini"))
    paths = sorted((dataset.SAMPLE / "images").glob("*.jpg"))[4:8]
    shown = []
    for path in paths:
        with Image.open(path) as image:
            target = torch.tensor(np.asarray(image.convert("RGB").resize((256, 256), Image.LANCZOS))).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            decoded = pipe.vae.decode(pipe.vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        shown.append(float(10 * torch.log10(4 / (decoded - target).square().mean())))
    assert min(shown) > 18 and np.mean(shown) > 22, "dB, in a style that the VAE has not seen"
