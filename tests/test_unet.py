"""The UNet as it is trained is the function that peft and diffusers give."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.training import loop
from storyboard.training import speedups as unet
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.stage import inject

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
    named = {
        "prompt_embeds": tokens,
        "pooled_prompt_embeds": pooled,
        "add_time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2),
    }
    loss = loop.diffusion_loss(pipe, latents, noise, torch.tensor([100, 900]), **named)
    loss.backward()
    return loss.item(), {
        name: parameter.grad
        for name, parameter in pipe.unet.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize(
    "prompts",
    [("紫色短发女孩，教室", ""), ("girl", "一个" * 200)],
    ids=["short", "one without padding"],
)
def test_loss_and_gradients_are_those_of_peft_and_diffusers(make_settings, prompts):
    settings = make_settings(rank=4, alpha=2)
    said = [conditioning.encode(run_on(MINI, settings), [prompt])[prompt] for prompt in prompts]
    pipe = prepared(settings)
    loss, gradients = measured(pipe, said)
    plain(pipe)
    theirs, expected = measured(pipe, said)
    assert loss == pytest.approx(theirs, abs=1e-6)
    for name, gradient in expected.items():
        assert gradient.any() and torch.allclose(
            gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max()
        ), name


def test_attention_sees_few_keys_of_a_short_prompt_and_all_of_others(make_settings):
    settings = make_settings()
    said = conditioning.encode(run_on(MINI, settings), ["女孩，教室"])["女孩，教室"].tokens
    network, seen = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32).unet, []
    unet.fold_padding(network)
    for name, module in network.named_modules():
        if name.endswith("attn2"):
            module.register_forward_hook(
                lambda _module, _args, named, _out: seen.append(
                    named["encoder_hidden_states"].shape[1]
                ),
                with_kwargs=True,
            )
    other = said.clone()
    other[0] += 1
    for tokens in (said, other):
        with torch.no_grad():
            network(
                torch.zeros(1, 4, 16, 16),
                1,
                encoder_hidden_states=tokens[None],
                added_cond_kwargs={
                    "text_embeds": torch.zeros(1, 192),
                    "time_ids": torch.zeros(1, 6),
                },
            )
    short, full = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert set(short) == {unet.KEYS} and set(full) == {MINI.text_length}


class Layers(torch.nn.Module):
    """Two layers with something between them that is not linear."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 96), torch.nn.Linear(96, 32)

    def forward(self, x):
        return self.second(torch.nn.functional.silu(self.first(x)))


def branched(dtype, double):
    """Output, and gradients of the input and of every LoRA weight: by ``add_as_branches`` in ``dtype``, or by peft in fp64 from the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = inject_adapter_in_model(
            LoraConfig(r=8, lora_alpha=4, target_modules=["first", "second"]),
            Layers().requires_grad_(False).to(dtype),
        )
        trained = [parameter for name, parameter in layers.named_parameters() if "lora_" in name]
        for parameter in trained:
            parameter.data = 0.1 * torch.randn(parameter.shape)
            parameter.requires_grad_(True)
        x = torch.randn(4, 10, 64).to(dtype)
    if double:
        layers, x = layers.double(), x.double()
    else:
        unet.add_as_branches(layers)
    x.requires_grad_(True)
    out = layers(x)
    out.double().square().mean().backward()
    assert all(
        parameter.grad.dtype == (torch.float64 if double else torch.float32)
        for parameter in trained
    )
    return [out, x.grad, *(parameter.grad for parameter in trained)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)], ids=["bf16", "fp16"]
)
def test_a_branch_in_16_bits_has_pefts_output_and_gradients(dtype, tolerance):
    for found, exact in zip(branched(dtype, False), branched(dtype, True), strict=True):
        assert (found.double() - exact).norm() < tolerance * exact.norm()
