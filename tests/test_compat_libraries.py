"""What is reached into in diffusers, transformers, peft and DiffSynth is there, and is restored."""

import logging
import warnings

import pytest
import torch
from diffsynth.configs import MODEL_CONFIGS
from peft import LoraConfig, inject_adapter_in_model

from storyboard.compat import diffsynth, diffusers, guard, peft, transformers
from storyboard.compat.quiet import quiet, quiet_hubs
from storyboard.errors import LibraryError
from storyboard.models import bases, loading
from storyboard.training.pipeline import TrainingPipeline

MINI = bases.get("mini")


@pytest.fixture
def unet():
    """mini's UNet without weights."""
    return loading.skeleton(MINI, "unet")


def test_a_library_that_has_moved_is_named_with_its_version():
    with pytest.raises(LibraryError, match=r"torch \d+\..* has no torch\.no_such_part"):
        guard.require("torch", torch, "no_such_part")
    with pytest.raises(LibraryError, match=r"torch \d+\..*no longer takes no_such_parameter"):
        guard.require_parameters("torch", torch.nn.Linear.forward, "no_such_parameter")


# DiffSynth


def test_diffsynths_registry_is_as_before(monkeypatch):
    before = [dict(entry) for entry in MODEL_CONFIGS]
    TrainingPipeline.load(MINI, ("vae",), "cpu", torch.float32)
    assert before == MODEL_CONFIGS
    with pytest.raises(RuntimeError, match="of the caller"):
        _fail_registered()
    assert before == MODEL_CONFIGS

    from diffsynth.models import model_loader

    monkeypatch.setattr(model_loader, "MODEL_CONFIGS", [])
    with pytest.raises(LibraryError, match=r"diffsynth .*MODEL_CONFIGS"):
        _fail_registered()


def _fail_registered():
    files = MINI.weight_files("vae")
    with diffsynth.registered("mine", files, "torch.nn.Linear", {}):
        assert MODEL_CONFIGS[-1]["model_name"] == "mine"
        raise RuntimeError("of the caller")


def test_diffsynth_prints_nothing(capsys):
    with diffsynth.silent():
        print("Loading models from: ...")
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


# diffusers


def test_diffusers_pipelines_have_what_is_reached_into(hub):
    pipe = loading.pipeline(hub("sdxl"))
    assert diffusers.execution_device(pipe).type in ("cpu", "cuda")
    assert "prompt_embeds" in diffusers.callback_tensors(pipe)
    with pytest.raises(LibraryError, match=r"diffusers .*_execution_device"):
        diffusers.execution_device(object())


def test_guidance_ends_and_begins_again_with_the_next_call(hub):
    pipe = loading.pipeline(hub("sdxl"), unet=loading.skeleton(hub("sdxl"), "unet"))
    pipe._guidance_scale = 5.0
    assert pipe.do_classifier_free_guidance
    diffusers.end_guidance(pipe)
    assert not pipe.do_classifier_free_guidance


def test_self_attention_is_restored(unet):
    def processor(*_, **__):
        raise AssertionError("is not called here")

    before = unet.attn_processors
    with diffusers.self_attention(unet, processor) as layers:
        now = unet.attn_processors
        replaced = [name for name, each in now.items() if each is processor]
        assert len(replaced) == layers > 0
        assert all(name.endswith("attn1.processor") for name in replaced)
    assert unet.attn_processors == before


def test_hooks_on_the_unet_can_be_removed(unet):
    handles = diffusers.transformers_channels_last(unet)
    handles.append(diffusers.replace_prompt_embeds(unet, lambda _: None))
    layers = diffusers.cross_attention_layers(unet)
    handles += [diffusers.add_attention_bias(layer, lambda: None) for layer in layers]
    assert len(handles) > len(layers) > 0
    for handle in handles:
        handle.remove()
    for module in unet.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_unet_without_cross_attention_is_another_version():
    with pytest.raises(LibraryError, match=r"diffusers .*attn2"):
        diffusers.cross_attention_layers(torch.nn.Linear(1, 1))


def test_attention_of_before_0_18_is_renamed():
    vae = loading.skeleton(MINI, "vae")
    (new,) = [
        name
        for name in vae.state_dict()
        if name.endswith("encoder.mid_block.attentions.0.to_q.weight")
    ]
    old = new.replace("to_q", "query")
    assert diffusers.renamed(vae, [old]) == {old: new}
    assert diffusers.is_model(vae)


# transformers


def test_prefixes_of_before_transformers_5_are_renamed(hub):
    clip = loading.skeleton(hub("sd15"), "text_encoder")
    new = next(name for name in clip.state_dict() if name.endswith("layers.0.mlp.fc1.weight"))
    old = new if new.startswith("text_model.") else f"text_model.{new}"
    assert transformers.renamed(clip, [old]) == {old: new}


def test_text_encoders_have_all_layers_again(hub):
    clip = loading.skeleton(hub("sd15"), "text_encoder")
    encoder = getattr(clip, "text_model", clip).encoder
    before = encoder.layers
    with transformers.without_last_layers([clip], 1):
        assert len(encoder.layers) == len(before) - 1
    assert encoder.layers is before


# peft


def _with_lora(**options):
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8))
    return inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], **options), layers)


def test_a_forward_of_peft_is_replaced_and_restored():
    model = _with_lora()
    (layer,) = peft.linear_layers(model)
    x, seen = torch.randn(3, 8), []
    expected = model(x)

    def forward(x, weights):
        seen.append(weights)
        base = torch.nn.functional.linear(x, weights.weight, weights.bias)
        return base + weights.scaling * x @ weights.a.T @ weights.b.T

    replaced = peft.replace_forward(layer, forward)
    assert torch.allclose(model(x), expected)
    assert len(seen) == 1
    replaced.remove()
    assert torch.equal(model(x), expected)
    assert len(seen) == 1


@pytest.mark.parametrize("option", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_a_lora_that_is_more_than_two_products_is_not_replaced(option):
    (layer,) = peft.linear_layers(_with_lora(**option))
    with pytest.raises(LibraryError, match=r"peft .*more than two products"):
        peft.replace_forward(layer, lambda x, _: x)


# Logging and progress bars


def _bars_and_levels():
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import progress_bar_states

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    return (
        [library.is_progress_bar_enabled() for library in libraries],
        [logging.getLogger(name).level for name in ("diffusers", "transformers")],
        dict(progress_bar_states),
        list(warnings.filters),
    )


@pytest.mark.parametrize("bars", [True, False])
def test_quiet_restores_bars_levels_and_filters(bars):
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.tqdm import progress_bar_states

    hub_before = dict(progress_bar_states)
    before = _bars_and_levels()
    with quiet():
        pass
    assert _bars_and_levels() == before
    try:
        for library in (diffusers.utils.logging, transformers.utils.logging):
            (library.enable_progress_bar if bars else library.disable_progress_bar)()
            library.set_verbosity_debug()
        disable_progress_bars("a.group")
        before = _bars_and_levels()
        with quiet():
            assert _bars_and_levels()[0] == [False, False]
            assert _bars_and_levels()[1] == [logging.ERROR, logging.ERROR]
        assert _bars_and_levels() == before
    finally:
        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.enable_progress_bar()
            library.set_verbosity_warning()
        progress_bar_states.clear()
        progress_bar_states.update(hub_before)


def test_hubs_are_quiet_and_then_as_before(capfd):
    import modelscope_hub.utils.logger

    logger = modelscope_hub.utils.logger.get_logger("test")
    level = logging.getLogger("modelscope_hub").level
    with quiet_hubs():
        print("a report")
        logger.warning("a line")
    assert "".join(capfd.readouterr()) == ""
    assert logging.getLogger("modelscope_hub").level == level
    print("heard")
    assert capfd.readouterr().out == "heard\n"
