"""The UNet as it is trained is the function that peft and diffusers give."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from storyboard.compat import diffusers
from storyboard.models import bases, conditioning
from storyboard.models.run import run_on
from storyboard.training import fp32_speedups, lora_branches
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.injection import inject
from storyboard.training.loop import trainable
from storyboard.training.loss import diffusion_loss
from storyboard.training.pipeline import TrainingPipeline

MINI = bases.get("mini")


def prepared(settings):
    """mini with a LoRA of weights that are not zero, as ``train`` has it; and what restores it."""
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    speedups = inject(pipe, Hyperparameters.of(run_on(MINI, settings)))
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable(pipe.unet).values():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return pipe, speedups


def loss_and_gradients(pipe, embeddings):
    """Loss, and the gradient of every LoRA weight."""
    generator = torch.Generator().manual_seed(2)
    latents, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
    tokens, pooled = conditioning.stack(embeddings)
    pipe.unet.zero_grad()
    inputs = {
        "prompt_embeds": tokens,
        "pooled_prompt_embeds": pooled,
        "add_time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2),
    }
    loss = diffusion_loss(pipe, latents, noise, torch.tensor([100, 900]), **inputs)
    loss.backward()
    return loss.item(), {name: each.grad for name, each in trainable(pipe.unet).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompts",
    [("紫色短发女孩，教室", ""), ("girl", "一个" * 200)],
    ids=["short", "one without padding"],
)
def test_loss_and_gradients_are_those_of_peft_and_diffusers(make_settings, prompts):
    settings = make_settings(rank=4, alpha=2)
    encoded = conditioning.encode(run_on(MINI, settings), prompts)
    embeddings = [encoded[prompt] for prompt in prompts]
    pipe, speedups = prepared(settings)
    loss, gradients = loss_and_gradients(pipe, embeddings)
    speedups.close()
    assert not any("forward" in module.__dict__ for module in pipe.unet.modules())
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())
    assert not any(module._forward_hooks for module in pipe.unet.modules())
    theirs, expected = loss_and_gradients(pipe, embeddings)
    assert loss == pytest.approx(theirs, abs=1e-6)
    for name, gradient in expected.items():
        assert gradient.any()
        tolerance = 1e-5 * gradient.abs().max()
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=tolerance), name


def test_attention_sees_few_keys_of_a_short_prompt_and_all_of_others(make_settings):
    settings = make_settings()
    prompt = "女孩，教室"
    padded = conditioning.encode(run_on(MINI, settings), [prompt])[prompt].tokens
    network, seen = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32).unet, []
    fp32_speedups.fold_padding(network)

    def count_keys(_module, _args, named, _output):
        seen.append(named["encoder_hidden_states"].shape[1])

    for layer in diffusers.cross_attention_layers(network):
        layer.register_forward_hook(count_keys, with_kwargs=True)
    other = padded.clone()
    other[0] += 1
    for tokens in (padded, other):
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
    assert set(short) == {fp32_speedups.KEY_MULTIPLE}
    assert set(full) == {MINI.text_length}


class Layers(torch.nn.Module):
    """Two layers with something between them that is not linear."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 96), torch.nn.Linear(96, 32)

    def forward(self, x):
        return self.second(torch.nn.functional.silu(self.first(x)))


def branched(dtype, double):
    """Output, and gradients of the input and of every LoRA weight.

    By ``add_as_branches`` in ``dtype``, or by peft in fp64 from the same weights.
    """
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
        lora_branches.add_as_branches(layers)
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
    for rounded, exact in zip(branched(dtype, False), branched(dtype, True), strict=True):
        assert (rounded.double() - exact).norm() < tolerance * exact.norm()
