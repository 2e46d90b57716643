"""Pictures with the texts that other tools write, to test with."""

import gzip
import json

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin


def png(path, size=(8, 8), itxt=False, **chunks):
    """A PNG with text chunks; what is no text is written as JSON."""
    info = PngImagePlugin.PngInfo()
    for name, value in chunks.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (info.add_itxt if itxt else info.add_text)(name.replace("__", "-"), text)
    Image.new("RGB", size).save(path, pnginfo=info)
    return path


def with_comment(path, comment: bytes, **options):
    """A JPEG or WebP, by the suffix, with EXIF's UserComment as it is given."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1  # Pillow writes none into a PNG that has no other tag
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    Image.new("RGB", (8, 8)).save(path, exif=exif, **options)
    return path


def stealth(path, text: str, name=b"stealth_pngcomp", side=64):
    """A PNG with ``text`` in the lowest bits of its alpha channel, or of its colours."""
    content = text.encode()
    if name.endswith(b"comp"):
        content = gzip.compress(content)
    content = name + (8 * len(content)).to_bytes(4, "big") + content
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    pixels = np.full((side, side, 4), 254, np.uint8)
    channels = slice(3, 4) if b"png" in name else slice(0, 3)
    part = pixels[..., channels].transpose(1, 0, 2)  # columns first
    flat = part.reshape(-1).copy()
    flat[: len(bits)] |= bits
    pixels[..., channels] = flat.reshape(part.shape).transpose(1, 0, 2)
    image = Image.fromarray(pixels, "RGBA")
    (image if b"png" in name else image.convert("RGB")).save(path)
    return path


def node(kind, **inputs):
    """A node of a ComfyUI graph."""
    return {"class_type": kind, "inputs": inputs}


def sampler(seed=7, positive="6", negative="7", latent="5", **more):
    """KSampler; conditionings and latents by the numbers of their nodes."""
    facts = {
        "steps": 20,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    links = {"model": ["4", 0], "positive": [positive, 0], "negative": [negative, 0]}
    links["latent_image"] = [latent, 0]
    return node("KSampler", seed=seed, **{**facts, **links, **more})


def graph(**changes):
    """ComfyUI's default graph, with other nodes by number (``n6=...``)."""
    nodes = {
        "3": sampler(),
        "4": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat, (night:1.2)", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }
    return nodes | {name.removeprefix("n"): each for name, each in changes.items()}
