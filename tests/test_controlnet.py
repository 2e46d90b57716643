"""ControlNets: parity with diffusers' own pipelines on tiny random weights, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Reference, Settings, Story, render
from storyboard.errors import BaseError
from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.rendering import annotators, controlnet, sampling
from storyboard.rendering.edges import edges
from storyboard.rendering.references import control_image, prepare, square
from tests import tiny
from tests.conftest import picture
from tests.test_parity import NAMES, of_diffusers

MINI = bases.get("mini")
PROMPTS, STEPS, SCALE = ("a girl with short purple hair", "a boy in the rain"), 4, 4.0


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "sketch.png"
    picture(3).save(path)
    return path


@pytest.fixture(scope="module")
def tiny_controlnets(hub_root):
    """name -> folder of a ControlNet of that tiny base, with layers that are not zero any more."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    found = {}
    for name in NAMES:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            unet = UNet2DConditionModel.from_pretrained(
                hub_root / tiny.HUB[name] / "unet", variant="fp16", torch_dtype=torch.float32
            )
            model = ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=(8, 8, 16, 16)
            )
            for part in (
                model.controlnet_down_blocks,
                model.controlnet_mid_block,
                model.controlnet_cond_embedding.conv_out,
            ):
                for parameter in part.parameters():
                    torch.nn.init.normal_(parameter, std=0.1)
        found[name] = hub_root / f"{name}-controlnet"
        model.save_pretrained(found[name])
    return found


def projected(model, args, named):
    """A hook that lets a ControlNet apply the projection that it holds."""
    hidden = model.encoder_hid_proj(named["encoder_hidden_states"])
    return args, named | {"encoder_hidden_states": hidden}


def embeddings(base, settings):
    """The memory plan, and embeddings of the prompts and of their negative prompts."""
    run = run_on(base, settings)
    encoded = conditioning.encode(run, [*PROMPTS, "blurry"])
    return run.plan, [encoded[prompt] for prompt in PROMPTS], [encoded["blurry"]] * 2


def ours(base, settings, folder, references, guidance_end=1.0):
    """Latents of both prompts under control."""
    plan, positive, negative = embeddings(base, settings)
    pipe = sampling.load_pipeline(base, plan)
    prepared = [
        prepare(base, reference, place, STEPS) for place, reference in enumerate(references, 1)
    ]
    model = controlnet.ControlNet(base, folder, pipe.unet, plan.dtype, plan.device)
    with model.attached(
        pipe.unet,
        torch.stack([annotators.as_tensor(control_image(each, 64)) for each in prepared]),
        [each.strength for each in references],
        [each.end for each in references],
        STEPS,
    ):
        latents = sampling.denoise(pipe, positive, negative, [7, 8], 64, STEPS, SCALE, guidance_end)
    return latents, sampling.denoise(
        pipe, positive, negative, [7, 8], 64, STEPS, SCALE, guidance_end
    )


def small(**changes):
    return Settings(base="mini", **{"resolution": 64, "num_inference_steps": 4} | changes)


@pytest.mark.parametrize("guidance_end", [1.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_controlnet_of_zero_strength_is_no_controlnet_exactly(
    hub, make_settings, tiny_controlnets, sketch, name, guidance_end
):
    weights = str(tiny_controlnets[name])
    references = [
        Reference(sketch, strength=0, weights=weights),
        Reference(sketch, strength=1, end=0.5, weights=weights),
    ]
    controlled, plain = ours(
        hub(name), make_settings(base=name), tiny_controlnets[name], references, guidance_end
    )
    assert torch.equal(controlled[0], plain[0]) and (controlled[1] - plain[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_controlnet_parity_with_diffusers_pipelines(
    hub, make_settings, tiny_controlnets, sketch, name
):
    import diffusers

    base, settings, folder = hub(name), make_settings(base=name), tiny_controlnets[name]
    reference = Reference(sketch, strength=0.7, end=0.5, weights=str(folder))
    mine, plain = ours(base, settings, folder, [reference, reference])
    theirs, model = (
        of_diffusers(name, base.folder),
        diffusers.ControlNetModel.from_pretrained(folder),
    )
    _, positive, negative = embeddings(base, settings)
    (tokens, pooled), (no_tokens, no_pooled) = (
        conditioning.stack(positive),
        conditioning.stack(negative),
    )
    inputs = {"prompt_embeds": tokens, "negative_prompt_embeds": no_tokens}
    parts = {
        "vae": theirs.vae,
        "unet": theirs.unet,
        "controlnet": model,
        "scheduler": theirs.scheduler,
        "text_encoder": None,
        "tokenizer": None,
    }
    if name == "sd15":
        pipe = diffusers.StableDiffusionControlNetPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        # diffusers has none for Kolors: SDXL's, with the projection that its ControlNet holds and
        # does not apply
        pipe = diffusers.StableDiffusionXLControlNetPipeline(
            **parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False
        )
        inputs |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": no_pooled}
        if name == "kolors":
            model.register_forward_pre_hook(projected, with_kwargs=True)
    pipe.set_progress_bar_config(disable=True)
    edge_map = Image.fromarray(edges(np.asarray(square(reference.picture, 64))))
    latents = pipe(
        **inputs,
        image=[edge_map.convert("RGB")] * 2,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        height=64,
        width=64,
        output_type="latent",
        controlnet_conditioning_scale=0.7,
        control_guidance_end=0.5,
    ).images
    shown = [sampling.decode(theirs, each) for each in (latents, mine, plain)]
    assert (shown[0] - shown[1]).abs().max() < 1e-4 and (shown[1] - shown[2]).abs().max() > 1e-2


def test_controlnet_of_sdxl_on_kolors(hub, make_settings, tiny_controlnets, sketch):
    """With the UNet's own projection and time embedding, as ComfyUI's nodes for Kolors do it."""
    reference = Reference(sketch, weights=str(tiny_controlnets["sdxl"]))
    controlled, plain = ours(
        hub("kolors"), make_settings(base="kolors"), tiny_controlnets["sdxl"], [reference] * 2
    )
    assert torch.isfinite(controlled).all() and (controlled - plain).abs().max() > 1e-2


def test_controlnet_of_another_base_or_cut_off_is_refused(tiny_controlnets, sketch, tmp_path):
    def story(folder):
        return Story([Panel("a", reference=Reference(sketch, weights=str(folder)))])

    with pytest.raises(
        BaseError, match="where the base 'mini' takes .64, 96, 160.: name one made for this base"
    ):
        render(story(tiny_controlnets["sdxl"]), small(output=str(tmp_path)), None)
    broken = tmp_path / "broken"
    shutil.copytree(MINI.controlnets["edges"], broken)
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BaseError, match="broken/diffusion.* it is cut off"):
        render(story(broken), small(output=str(tmp_path)), None)
    (broken / "config.json").unlink()
    with pytest.raises(BaseError, match="lacks config.json"):
        render(story(broken), small(output=str(tmp_path)), None)


def altered(folder, target, **config):
    """A copy of the ControlNet in ``folder`` with another ``config.json``; None takes a key out."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    content = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return target


@pytest.mark.parametrize("name", ["ControlNetModel_JQ", "Kolors_ControlNetModel", None])
def test_controlnet_is_known_by_its_structure_whatever_its_class_is_called(
    hub, tiny_controlnets, tmp_path, name
):
    controlnet.check(
        hub("kolors"), altered(tiny_controlnets["kolors"], tmp_path / "cn", _class_name=name)
    )


@pytest.mark.parametrize(
    ("base", "config", "message"),
    [
        (
            "sdxl",
            {"num_control_type": 6},
            "holds a ControlNet Union, which cannot control the base 'sdxl'",
        ),
        (
            "sdxl",
            {"time_embedding_mix": 1.0, "base_block_out_channels": [32, 64, 64]},
            "holds a ControlNet-XS,",
        ),
        (
            "sdxl",
            {"joint_attention_dim": 4096, "pooled_projection_dim": 2048},
            "a ControlNet for Stable Diffusion 3,",
        ),
        (
            "sdxl",
            {"joint_attention_dim": 4096, "num_single_layers": 10, "axes_dims_rope": []},
            "a ControlNet for Flux,",
        ),
        (
            "sd15",
            {"cross_attention_dim": 1024},
            "cross_attention_dim=1024, where the base 'sd15' takes 32",
        ),  # of SD 2
        (
            "sdxl",
            {"encoder_hid_dim": 64},
            "encoder_hid_dim=64, where the base 'sdxl' takes None",
        ),  # of Kolors
        (
            "sdxl",
            {"projection_class_embeddings_input_dim": 112},
            "input_dim=112, where the base 'sdxl' takes 80",
        ),
        (
            "sdxl",
            {"conditioning_channels": 4},
            "conditioning_channels=4, where the base 'sdxl' takes 3",
        ),
        (
            "sdxl",
            {"block_out_channels": None},
            "block_out_channels=None, where the base 'sdxl' takes",
        ),
    ],
)
def test_controlnet_of_another_kind_is_refused_by_what_it_is(
    hub, tiny_controlnets, tmp_path, base, config, message
):
    folder = altered(tiny_controlnets[base], tmp_path / "cn", **config)
    with pytest.raises(BaseError, match=message) as error:
        controlnet.check(hub(base), folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("controlnet_mid_block.weight"),
            "mid_block.weight should be .* and is absent",
        ),
        (  # of a ControlNet Union
            lambda tensors: tensors.update(task_embedding=torch.zeros(6, 32)),
            "task_embedding has no place there",
        ),
    ],
)
def test_controlnet_whose_weights_are_of_another_model_is_refused(
    hub, tiny_controlnets, tmp_path, change, message
):
    from safetensors.torch import load_file, save_file

    folder = altered(tiny_controlnets["sdxl"], tmp_path / "cn")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BaseError, match=message):
        controlnet.check(hub("sdxl"), folder)
