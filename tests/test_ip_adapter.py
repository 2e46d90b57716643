"""Character consistency by an IP-Adapter, with tiny random weights."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import Story, bundle, render, render_many, reproduce
from storyboard.errors import BaseError, SettingsError
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.rendering import character
from tests import tiny
from tests.conftest import picture
from tests.test_parity import NAMES, of_diffusers

PROMPTS, STEPS = ["a girl with short purple hair", "a boy in the rain", "a cat"], 3


@pytest.fixture(scope="module")
def ip_adapters(hub_root):
    """IP-Adapters of tiny random weights for the tiny bases, in the folders of the hub's ids."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    for name in NAMES:
        model, file, encoder = bases.get(name).ip_adapter
        folder = hub_root / model.huggingface
        with torch.random.fork_rng():
            torch.manual_seed(2)
            vision = CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                projection_dim=24,
            )
            CLIPVisionModelWithProjection(vision).save_pretrained(folder / encoder)
            unet = UNet2DConditionModel.from_pretrained(
                hub_root / tiny.HUB[name] / "unet", variant="fp16"
            )
            width = unet.config.cross_attention_dim
            weights = {
                "image_proj.proj.weight": torch.randn(4 * width, 24) * 0.3,
                "image_proj.proj.bias": torch.zeros(4 * width),
                "image_proj.norm.weight": torch.ones(width),
                "image_proj.norm.bias": torch.zeros(width),
            }
            cross = [
                unet.get_submodule(key.removesuffix(".processor"))
                for key in unet.attn_processors
                if key.endswith("attn2.processor")
            ]
            for index, attention in enumerate(cross):
                for part in "kv":
                    key = f"ip_adapter.{2 * index + 1}.to_{part}_ip.weight"
                    weights[key] = torch.randn(attention.inner_dim, width) * 0.3
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / file)
    return hub_root


@pytest.mark.slow
def test_an_ip_adapter_of_one_story_does_not_reach_the_next(
    hub, make_settings, ip_adapters, tmp_path
):
    stories = {"a": Story(PROMPTS), "b": Story(PROMPTS[::-1])}
    settings = make_settings(base=hub("sdxl").name, character="ip-adapter")
    made = render_many(stories, settings, None)
    for name, story in stories.items():
        alone = render(story, settings, None, tmp_path / name)
        assert made.stories[name].panels == alone.panels
        for one, other in zip(made.stories[name].paths, alone.paths, strict=True):
            assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_character_by_ip_adapter_parity_with_diffusers(
    hub, make_settings, ip_adapters, tmp_path, name, capsys
):
    """Panel 1 without, the others with it, as diffusers draws them; a given picture reaches all."""
    base, source = hub(name), tmp_path / "source.png"
    picture(5, 64).save(source)
    settings = make_settings(base=name, output=str(tmp_path / "1"), character="ip-adapter")
    pictures = render(Story(PROMPTS, "blurry"), settings, None)
    assert "character: ip-adapter, " in capsys.readouterr().out
    with_source = settings.but(output=str(tmp_path / "2"), character_picture=str(source))
    given = render(Story(PROMPTS, "blurry"), with_source, None)

    pipe = of_diffusers(name, base.folder)

    def draw(index, **options):
        images = pipe(
            prompt=[PROMPTS[index]],
            negative_prompt=["blurry"],
            generator=[torch.Generator().manual_seed(42 + index)],
            num_inference_steps=STEPS,
            guidance_scale=base.guidance_scale,
            height=64,
            width=64,
            **options,
        ).images
        return np.asarray(images[0], int)

    def difference(drawn, path):
        return np.abs(drawn - np.asarray(Image.open(path), int)).max()

    plain = draw(1)
    assert difference(draw(0), pictures.paths[0]) <= 1
    assert difference(plain, pictures.paths[1]) > 2

    folder = ip_adapters / base.ip_adapter[0].huggingface
    character._load_ip_adapter(pipe, folder, *base.ip_adapter[1:])
    pipe.set_ip_adapter_scale(0.6)
    by_panel_1 = draw(1, ip_adapter_image=Image.open(pictures.paths[0]))
    by_source = draw(0, ip_adapter_image=Image.open(source))
    assert difference(by_panel_1, pictures.paths[1]) <= 1
    assert difference(by_source, given.paths[0]) <= 1

    render(Story(PROMPTS, "blurry"), settings, None)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_character_by_ip_adapter_is_in_the_bundle_and_reproduced(
    hub, make_settings, ip_adapters, tmp_path, given
):
    tiny.lora(hub("sd15"), tmp_path / "lora.safetensors")
    picture(5, 80).save(tmp_path / "source.png")
    settings = make_settings(
        base="sd15",
        character="ip-adapter",
        character_picture=str(tmp_path / "source.png") if given else None,
    )
    found = bundle(
        render(Story(PROMPTS, "blurry"), settings, tmp_path / "lora.safetensors"),
        tmp_path / "lora.safetensors",
        settings,
    )
    assert ("character.png" in found.files) == given
    result = reproduce(found.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 3 and result.changed == []


def test_character_trouble_is_found_before_anything_is_drawn(
    hub, make_settings, ip_adapters, tmp_path
):
    hub("sd15")
    settings = make_settings(base="sd15", character="ip-adapter")
    with pytest.raises(SettingsError, match="character_picture, none.png, cannot be read"):
        render(Story(PROMPTS), settings.but(character_picture="none.png"), None)
    file = ip_adapters / "h94" / "IP-Adapter" / "models" / "ip-adapter-plus_sd15.safetensors"
    content = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(
            BaseError, match="the IP-Adapter lacks models/ip-adapter-plus_sd15.safetensors"
        ):
            render(Story(PROMPTS), settings, None)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("image_proj.norm.bias"), "tensors are missing"),
        (lambda tensors: tensors.pop("ip_adapter.1.to_v_ip.weight"), "1.to_v_ip.weight"),
        (
            lambda tensors: tensors.update({"ip_adapter.99.to_k_ip.weight": torch.zeros(4)}),
            "keys for 17 layers",
        ),
    ],
)
def test_character_of_an_ip_adapter_for_another_base_is_an_error(
    hub, ip_adapters, tmp_path, change, message
):
    base = hub("sd15")
    folder, (model, file, encoder) = tmp_path / "adapter", base.ip_adapter
    shutil.copytree(ip_adapters / model.huggingface, folder)
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    pipe = models.pipeline(base, unet=models.load(base, "unet", torch.float32))
    picture(5, 64).save(tmp_path / "source.png")
    attached = character.Character(
        "ip-adapter", 0.6, tmp_path / "source.png", 64, None, folder, (file, encoder)
    )
    with pytest.raises(BaseError, match=f"is no IP-Adapter for this base .*{message}"):
        attached.attach(pipe, pipe)


def test_character_of_an_image_encoder_that_is_not_whole_is_an_error(
    hub, make_settings, ip_adapters, tmp_path
):
    """A missing tensor would be filled with random numbers."""
    hub("sd15")
    picture(5, 64).save(tmp_path / "source.png")
    settings = make_settings(
        base="sd15", character="ip-adapter", character_picture=str(tmp_path / "source.png")
    )
    path = ip_adapters / "h94" / "IP-Adapter" / "models" / "image_encoder" / "model.safetensors"
    whole = path.read_bytes()
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    try:
        with pytest.raises(BaseError, match="visual_projection.weight is missing"):
            render(Story(PROMPTS), settings, None)
    finally:
        path.write_bytes(whole)
