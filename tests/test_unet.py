"""The UNet as it is trained is the function that peft and diffusers give."""

import pytest
import torch

from storyboard import bases, conditioning, memory
from storyboard.training import inject, loop, unet
from storyboard.training.pipeline import TrainingPipeline

MINI = bases.get("mini")


def prepared(settings):
    """mini with a LoRA of weights that are not zero, as ``train`` has it."""
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    inject(pipe, settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in pipe.unet.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return pipe


def plain(pipe):
    """The same without what ``storyboard.training.unet`` has put on it."""
    for module in pipe.unet.modules():
        module._forward_pre_hooks.clear()
        module.__dict__.pop("forward", None)


def measured(pipe, said):
    """Loss, and the gradient of every LoRA weight."""
    generator = torch.Generator().manual_seed(2)
    latents, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
    tokens, pooled = conditioning.stack(said)
    pipe.unet.zero_grad()
    named = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled, "add_time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)}
    loss = loop.diffusion_loss(pipe, latents, noise, torch.tensor([100, 900]), **named)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in pipe.unet.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("prompts", [("紫色短发女孩，教室", ""), ("girl", "一个" * 200)], ids=["short", "one without padding"])
def test_loss_and_gradients_are_those_of_peft_and_diffusers(make_settings, prompts):
    settings = make_settings(rank=4, alpha=2)
    said = [conditioning.encode(MINI, [prompt], settings, memory.plan(MINI, settings))[prompt] for prompt in prompts]
    pipe = prepared(settings)
    loss, gradients = measured(pipe, said)
    plain(pipe)
    theirs, expected = measured(pipe, said)
    assert loss == pytest.approx(theirs, abs=1e-6)
    for name, gradient in expected.items():
        assert gradient.any() and torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max()), name


def test_attention_sees_few_keys_of_a_short_prompt_and_all_of_others(make_settings):
    settings = make_settings()
    said = conditioning.encode(MINI, ["女孩，教室"], settings, memory.plan(MINI, settings))["女孩，教室"].tokens
    network, seen = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32).unet, []
    unet.fold_padding(network)
    for name, module in network.named_modules():
        if name.endswith("attn2"):
            module.register_forward_hook(lambda _module, _args, named, _out: seen.append(named["encoder_hidden_states"].shape[1]), with_kwargs=True)
    other = said.clone()
    other[0] += 1
    for tokens in (said, other):
        with torch.no_grad():
            network(torch.zeros(1, 4, 16, 16), 1, encoder_hidden_states=tokens[None], added_cond_kwargs={"text_embeds": torch.zeros(1, 192), "time_ids": torch.zeros(1, 6)})
    short, full = seen[:len(seen) // 2], seen[len(seen) // 2:]
    assert set(short) == {unet.KEYS} and set(full) == {MINI.text_length}
