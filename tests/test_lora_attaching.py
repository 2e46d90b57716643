"""A LoRA of UNet and text encoders, against diffusers' own loader and against plain sums."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Story, render
from storyboard.errors import LoraError
from storyboard.lora import attaching, fitting
from storyboard.lora import file as lora
from storyboard.lora.names import module_path, path_of
from storyboard.models import loading as models
from storyboard.models import memory, text_clip
from storyboard.rendering import sampling
from tests import tiny
from tests.parity import alone, encode, of_diffusers, pixels

NAMES = ("sdxl", "sd15")
MIXED = {"alphas": (3.0, 0.5, 8.0), "ranks": (4, 2)}


@pytest.fixture
def whole(hub, tmp_path):
    """(name) -> the tiny base, and the path of a LoRA for all of it."""

    def make(name, **form):
        tiny.whole_lora(hub(name), tmp_path / f"{name}.safetensors", **form)
        return hub(name), tmp_path / f"{name}.safetensors"

    return make


def with_lora(base, path, strength=1.0):
    """diffusers' own pipeline with the file in it, by its own loader."""
    pipe = of_diffusers(base.name, base.folder)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    if strength != 1:
        pipe.set_adapters(pipe.get_active_adapters(), strength)
    return pipe


def parts(base, components):
    """Our pipeline with only these components."""
    return models.pipeline(
        base, **{component: models.load(base, component, torch.float32) for component in components}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_lora_of_text_encoders_draws_as_diffusers_own_loader(
    whole, make_settings, name, strength
):
    base, path = whole(name)
    settings, prompt, negative = make_settings(base=name), "a girl with short purple hair", "blurry"
    theirs = alone(with_lora(base, path, strength), prompt, negative)

    adapter = attaching.text_adapter(base, path, strength)
    with_lora_in_text = encode(base, settings, [prompt, negative], adapter=adapter)
    without = encode(base, settings, [prompt, negative])
    pipe = sampling.load_pipeline(base, memory.plan(base, settings), path, strength=strength)

    def draw(embeddings):
        positive_row, negative_row = [embeddings[prompt]], [embeddings[negative]]
        return pixels(pipe, sampling.denoise(pipe, positive_row, negative_row, [7], 64, 3, 4.0))[0]

    assert (draw(with_lora_in_text) - theirs).abs().max() < 1e-4
    assert (draw(without) - theirs).abs().max() > 0.01  # the text encoders' part does matter


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "prompt", ["a (girl:1.4) with [short] purple hair", "a girl, " * 20 + "(rain:0.6)"]
)
def test_weighted_prompts_go_through_text_encoders_with_a_lora(whole, make_settings, name, prompt):
    """compel on the encoders of diffusers' pipeline, into which its own loader has put the file."""
    from storyboard import prompts

    base, path = whole(name)
    settings = make_settings(base=name)
    pieces = prompts.parse(prompt)
    with torch.no_grad():
        expected, _ = text_clip.weighted(with_lora(base, path), pieces, 77, "cpu")
        without, _ = text_clip.weighted(of_diffusers(name, base.folder), pieces, 77, "cpu")
    adapter = attaching.text_adapter(base, path)
    tokens = encode(base, settings, [prompt], adapter=adapter)[prompt].tokens
    assert tokens.shape == expected.shape
    assert (tokens - expected).abs().max() < 1e-4
    assert (without - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_each_module_gets_its_own_rank_and_alpha(whole, name):
    base, path = whole(name, **MIXED)
    components = [component for component in base.components if component != "vae"]
    pipe, tensors = parts(base, components), load_file(path)
    before = {
        component: {
            key: value.clone() for key, value in getattr(pipe, component).state_dict().items()
        }
        for component in components
    }
    names = lora.modules(path)
    assert attaching.attach(pipe, base, path) == len(names)

    layers = {
        module_path(component, key): layer
        for component in components
        for key, layer in getattr(pipe, component).named_modules()
        if hasattr(layer, "merge")
    }
    weights = {
        module_path(component, key.removesuffix(".weight")): value
        for component in components
        for key, value in before[component].items()
    }
    assert layers.keys() == {path_of(each) for each in names}
    for each in names:
        layer = layers[path_of(each)]
        layer.merge()
        up, down, alpha = (
            tensors[f"{each}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        change = (up.flatten(1) @ down.flatten(1) * (alpha / len(down))).view_as(
            layer.get_base_layer().weight
        )
        assert torch.allclose(
            layer.get_base_layer().weight, weights[path_of(each)] + change, atol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_place_in_a_text_encoder_is_refused_before_it_is_loaded(whole, tmp_path, name):
    base, path = whole(name)
    tensors = load_file(path)
    save_file(
        {key.replace("layers_2", "layers_7"): tensor for key, tensor in tensors.items()},
        tmp_path / "deeper.safetensors",
    )
    with pytest.raises(LoraError, match=r"6 of the|12 of the"):
        fitting.check(base, tmp_path / "deeper.safetensors")

    wide = {
        key: torch.ones(len(tensor), 48)
        if "lora_te" in key and key.endswith("q_proj.lora_down.weight")
        else tensor
        for key, tensor in tensors.items()
    }
    save_file(wide, tmp_path / "wider.safetensors")
    layer = "lora_te1?_text_model_encoder_layers_0_self_attn_q_proj"
    with pytest.raises(LoraError, match=rf"does not fit the base '{name}' \({layer} is \[4, 48\]"):
        fitting.check(base, tmp_path / "wider.safetensors")


def test_a_lora_with_a_text_encoder_that_the_base_lacks_is_refused(whole, hub):
    _, path = whole("sdxl", facts=False)
    with pytest.raises(LoraError, match="have no place in the base 'kolors'"):
        fitting.check(hub("kolors"), path)
    with pytest.raises(LoraError, match="have no place in the base 'sd15'"):
        fitting.check(hub("sd15"), path)


def test_both_names_of_the_first_text_encoder_are_one_module(whole, tmp_path):
    base, path = whole("sd15")
    tensors = load_file(path)
    save_file(
        {key.replace("lora_te_", "lora_te1_"): tensor for key, tensor in tensors.items()},
        tmp_path / "te1.safetensors",
    )
    assert attaching.attach(parts(base, ["text_encoder"]), base, tmp_path / "te1.safetensors") == 18
    save_file(
        tensors
        | {key.replace("lora_te_", "lora_te1_"): tensor.clone() for key, tensor in tensors.items()},
        tmp_path / "twice.safetensors",
    )
    with pytest.raises(LoraError, match=r"has lora_te_text_model_\w+.\w+ twice, under two names"):
        attaching.attach(parts(base, ["text_encoder"]), base, tmp_path / "twice.safetensors")


def test_values_that_are_not_finite_are_refused(whole, tmp_path):
    base, path = whole("sd15")
    tensors = load_file(path)
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(
        LoraError,
        match=r"not finite \(such as lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight\)",
    ):
        attaching.attach(parts(base, ["text_encoder"]), base, tmp_path / "nan.safetensors")


@pytest.mark.slow
def test_a_lora_of_text_encoders_alone_draws(whole, make_settings, tmp_path):
    """sd-scripts' network_train_text_encoder_only."""
    _, path = whole("sd15")
    save_file(
        {key: tensor for key, tensor in load_file(path).items() if "lora_te" in key},
        tmp_path / "text.safetensors",
    )
    story, settings = Story(["a girl"]), make_settings(base="sd15")
    pictures = {
        lora and lora.name: render(story, settings, lora).paths[0].read_bytes()
        for lora in (None, path, tmp_path / "text.safetensors")
    }
    assert len(set(pictures.values())) == 3
