"""One heroine in all panels: shared self-attention on every base, IP-Adapters with tiny random weights."""

import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Reference, Settings, Story, bundle, render, reproduce
from storyboard.errors import BaseError, SettingsError
from storyboard.models import bases, conditioning, memory
from storyboard.models import loading as models
from storyboard.models.run import run_on
from storyboard.rendering import character, sampling
from storyboard.scoring import classifier
from tests import tiny
from tests.conftest import picture
from tests.test_parity import NAMES, of_diffusers

PROMPTS, STEPS = ["a girl with short purple hair", "a boy in the rain", "a cat"], 3
STORY = Story(
    [
        f"卡通，女孩，{words}"
        for words in (
            "微笑，海边",
            "大笑，森林",
            "难过，雨天",
            "惊讶，夜空",
            "眨眼，城市",
            "微笑，舞台",
        )
    ],
    "模糊，低质量",
)
ASKED = [
    ("smiling", "seaside"),
    ("laughing", "forest"),
    ("sad", "rain"),
    ("surprised", "night"),
    ("winking", "city"),
    ("smiling", "stage"),
]


def small(**changes):
    return Settings(base="mini", **{"resolution": 64, "num_inference_steps": STEPS} | changes)


def pixels(path, side=128):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.LANCZOS))


@pytest.mark.parametrize("name", [*NAMES, "mini"])
def test_heroine_by_shared_attention_is_taken_back_exactly(hub, make_settings, name):
    base = hub(name) if name != "mini" else bases.get(name)
    settings = make_settings(base=name)
    plan = memory.plan(base, settings)
    said = conditioning.encode(replace(run_on(base, settings), plan=plan), [*PROMPTS, ""])
    pipe = sampling.load_pipeline(base, plan)
    draw = lambda prompts: sampling.denoise(
        pipe,
        [said[prompt] for prompt in prompts],
        [said[""]] * len(prompts),
        list(range(len(prompts))),
        64,
        STEPS,
        4.0,
        0.7,
    )
    plain, processors = draw(PROMPTS), pipe.unet.attn_processors
    with character.shared(pipe.unet, 3, 1.0) as layers:
        together = draw(PROMPTS)
    with character.shared(
        pipe.unet, 1, 1.0
    ):  # of one picture with itself: the same keys twice change no softmax
        alone = draw(PROMPTS[:1])
    with character.shared(pipe.unet, 3, 1e-30):
        hardly = draw(PROMPTS)
    decoded = lambda latents: sampling.decode(pipe, latents)
    assert (
        layers == sum(name.endswith("attn1.processor") for name in processors)
        and pipe.unet.attn_processors == processors
    )
    assert torch.equal(draw(PROMPTS), plain)
    assert (decoded(together)[0] - decoded(plain)[0]).abs().max() < 1e-3 and (
        decoded(together)[1:] - decoded(plain)[1:]
    ).abs().amax((1, 2, 3)).min() > 1e-3
    assert (decoded(alone) - decoded(plain)[:1]).abs().max() < 1e-3 and (
        decoded(hardly) - decoded(plain)
    ).abs().max() < 1e-3


@pytest.fixture(scope="module")
def coherent(tmp_path_factory):
    """Pictures of one story whose prompts leave the heroine open: {on: [six pictures] for each of two seeds}."""
    folder = tmp_path_factory.mktemp("coherent")
    settings = lambda on, seed: Settings(
        base="mini",
        output=str(folder / f"{on}-{seed}"),
        seed=seed,
        num_inference_steps=10,
        render_batch_size=6,
        character="shared" if on else None,
    )
    return {
        on: [render(STORY, settings(on, seed), None).paths for seed in (10, 30)]
        for on in (False, True)
    }


def test_heroine_by_shared_attention_raises_coherence_on_mini(coherent):
    model = classifier.load()
    cosine, hair, asked = {}, {}, {}
    for on, stories in coherent.items():
        shown = [np.stack([pixels(path) for path in paths]) for paths in stories]
        heads = [one[:, 16:100, 28:100] for one in shown]  # where every style has its head
        features = [torch.tensor(one / 255).flatten(1) for one in heads]
        features = [
            torch.nn.functional.normalize(one - one.mean(1, keepdim=True), dim=1)
            for one in features
        ]
        cosine[on] = np.mean(
            [float(one[a] @ one[b]) for one in features for a, b in combinations(range(6), 2)]
        )
        read = [classifier.read(model, one) for one in shown]
        hair[on] = np.mean(
            [row["hair_color"] == rows[0]["hair_color"] for rows in read for row in rows[1:]]
        )
        asked[on] = (
            np.mean(
                [
                    (row["expression"] == mood) + (row["background"] == place)
                    for rows in read
                    for row, (mood, place) in zip(rows, ASKED)
                ]
            )
            / 2
        )
    assert cosine[True] > cosine[False] + 0.1 and hair[True] >= 0.8 > hair[False] + 0.3, (
        f"{cosine} {hair}"
    )
    assert asked[True] > asked[False] - 0.15, asked


def test_heroine_leaves_panel_1_as_it_is_and_off_is_the_story_without(coherent, tmp_path, capsys):
    off, on = (paths[0] for paths in coherent.values())
    assert (
        np.abs(pixels(off[0], 256).astype(int) - pixels(on[0], 256)).max() <= 1
    )  # drawn in a batch of its own
    assert (
        "heroine" not in Image.open(off[1]).text["storyboard"]
        and "heroine" in Image.open(on[1]).text["storyboard"]
    )
    story = Story(list(STORY)[:3], "模糊")
    pictures = render(story, small(output=str(tmp_path), character="shared"), None)
    said = capsys.readouterr().out
    assert "heroine: shared, " in said and " s a panel with it, " in said and " s without" in said
    first = {path.name: path.read_bytes() for path in pictures.paths}
    render(
        Story([*story[:2], Panel("绿色长发女孩")], "模糊"),
        small(output=str(tmp_path), character="shared"),
        None,
    )
    assert (
        "drew 1 of 3 panels" in capsys.readouterr().out
        and pictures.paths[1].read_bytes() == first["panel-2.png"]
    )
    render(
        Story([Panel("红色短发男孩"), *story[1:]], "模糊"),
        small(output=str(tmp_path), character="shared"),
        None,
    )
    assert "drew 3 of 3 panels" in capsys.readouterr().out


def test_heroine_beside_a_controlnet(tmp_path):
    picture(3).save(tmp_path / "a.png")
    story = Story(
        ["女孩", "女孩，微笑", Panel("女孩，海边", reference=Reference(tmp_path / "a.png"))]
    )
    one, two = (
        render(story, small(output=str(tmp_path / str(by)), character=by), None)
        for by in (None, "shared")
    )
    assert all(
        np.abs(pixels(one.paths[place]).astype(int) - pixels(two.paths[place])).mean() > 0.5
        for place in (1, 2)
    )
    for panels in (
        [Panel("a", reference=str(tmp_path / "a.png")), "b"],
        ["a", Panel("b", reference=Reference(tmp_path / "a.png", control="image"))],
    ):
        with pytest.raises(SettingsError, match="draws panel 1 beside every other panel"):
            render(Story(panels), small(output=str(tmp_path / "no"), character="shared"), None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heroine": "twin"}, "character='twin' must be"),
        ({"heroine": "ip-adapter"}, "The base 'mini' has no IP-Adapter"),
        ({"character_strength": 1.0}, "belongs to a heroine"),
        ({"heroine": "shared", "character_strength": 0}, "character_strength=0 must be"),
        ({"heroine": "shared", "character_picture": "a.png"}, "character_picture to"),
    ],
)
def test_heroine_settings_that_cannot_be_say_why(settings, said):
    with pytest.raises(SettingsError, match=said) as error:
        small(**settings)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def ip_adapters(hub_root):
    """IP-Adapters of tiny random weights for the tiny bases, in the places that the hub's ids say."""
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from tests import tiny

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
            for place, attention in enumerate(cross):
                weights |= {
                    f"ip_adapter.{2 * place + 1}.to_{part}_ip.weight": torch.randn(
                        attention.inner_dim, width
                    )
                    * 0.3
                    for part in "kv"
                }
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / file)
    return hub_root


@pytest.mark.parametrize("name", NAMES)
def test_heroine_by_ip_adapter_parity_with_diffusers(
    hub, make_settings, ip_adapters, tmp_path, name, capsys
):
    """Panel 1 without, the others with it, as diffusers draws them with load_ip_adapter; a given picture reaches panel 1, too."""
    base, picture_of_her = hub(name), tmp_path / "heroine.png"
    picture(5, 64).save(picture_of_her)
    settings = lambda **more: make_settings(
        base=name, output=str(tmp_path / f"out{len(more)}"), character="ip-adapter", **more
    )
    pictures = render(Story(PROMPTS, "blurry"), settings(), None)
    assert "heroine: ip-adapter, " in capsys.readouterr().out
    given = render(Story(PROMPTS, "blurry"), settings(character_picture=str(picture_of_her)), None)
    pipe = of_diffusers(name, base.folder)
    draw = lambda place, **her: np.asarray(
        pipe(
            prompt=[PROMPTS[place]],
            negative_prompt=["blurry"],
            generator=[torch.Generator().manual_seed(42 + place)],
            num_inference_steps=STEPS,
            guidance_scale=base.guidance_scale,
            height=64,
            width=64,
            **her,
        ).images[0],
        int,
    )
    shown = lambda path: np.asarray(Image.open(path), int)
    assert np.abs(draw(0) - shown(pictures.paths[0])).max() <= 1
    plain = draw(1)
    character._load_ip_adapter(
        pipe, ip_adapters / base.ip_adapter[0].huggingface, *base.ip_adapter[1:]
    )
    pipe.set_ip_adapter_scale(0.6)
    assert (
        np.abs(
            draw(1, ip_adapter_image=Image.open(pictures.paths[0])) - shown(pictures.paths[1])
        ).max()
        <= 1
    )
    assert (
        np.abs(draw(0, ip_adapter_image=Image.open(picture_of_her)) - shown(given.paths[0])).max()
        <= 1
    )
    assert np.abs(plain - shown(pictures.paths[1])).max() > 2
    render(Story(PROMPTS, "blurry"), settings(), None)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("given", [False, True])
def test_heroine_by_ip_adapter_is_in_the_bundle_and_reproduced(
    hub, make_settings, ip_adapters, tmp_path, given
):
    tiny.lora(hub("sd15"), tmp_path / "lora.safetensors")
    picture(5, 80).save(tmp_path / "her.png")
    settings = make_settings(
        base="sd15",
        character="ip-adapter",
        character_picture=str(tmp_path / "her.png") if given else None,
    )
    found = bundle(
        render(Story(PROMPTS, "blurry"), settings, tmp_path / "lora.safetensors"),
        tmp_path / "lora.safetensors",
        settings,
    )
    assert ("heroine.png" in found.files) == given
    result = reproduce(found.path, tmp_path / "again")
    assert result.verdicts == ["identical"] * 3 and result.changed == []


def test_heroine_trouble_is_found_before_anything_is_drawn(
    hub, make_settings, ip_adapters, tmp_path
):
    hub("sd15")
    settings = lambda **more: make_settings(base="sd15", character="ip-adapter", **more)
    with pytest.raises(SettingsError, match="character_picture, none.png, cannot be read"):
        render(Story(PROMPTS), settings(character_picture="none.png"), None)
    file = ip_adapters / "h94" / "IP-Adapter" / "models" / "ip-adapter-plus_sd15.safetensors"
    content = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(
            BaseError, match="the IP-Adapter lacks models/ip-adapter-plus_sd15.safetensors"
        ):
            render(Story(PROMPTS), settings(), None)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("image_proj.norm.bias"), "tensors are missing"),
        (lambda tensors: tensors.pop("ip_adapter.1.to_v_ip.weight"), "1.to_v_ip.weight"),
        (
            lambda tensors: tensors.update({"ip_adapter.99.to_k_ip.weight": torch.zeros(4)}),
            "keys for 17 layers",
        ),
    ],
)
def test_heroine_of_an_ip_adapter_for_another_base_is_an_error(
    hub, ip_adapters, tmp_path, change, said
):
    from safetensors.torch import load_file, save_file

    base = hub("sd15")
    folder, (model, file, encoder) = tmp_path / "adapter", base.ip_adapter
    shutil.copytree(ip_adapters / model.huggingface, folder)
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    pipe = models.pipeline(base, unet=models.load(base, "unet", torch.float32))
    picture(5, 64).save(tmp_path / "her.png")
    her = character.Character(
        "ip-adapter", 0.6, tmp_path / "her.png", 64, None, folder, (file, encoder)
    )
    with pytest.raises(BaseError, match=f"is no IP-Adapter for this base .*{said}"):
        her.attach(pipe, pipe)


def test_heroine_of_an_image_encoder_that_is_not_whole_is_an_error(
    hub, make_settings, ip_adapters, tmp_path
):
    """A missing tensor would be filled with random numbers."""
    from safetensors.torch import load_file, save_file

    hub("sd15")
    picture(5, 64).save(tmp_path / "her.png")
    settings = make_settings(
        base="sd15", character="ip-adapter", character_picture=str(tmp_path / "her.png")
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
