"""The edge ControlNet's training on a card, with the new UNet as it is."""

import torch

from tools import optimisation
from tools.card.card_run import CardRun, Clock
from tools.card.gallery import unpacked
from tools.card.unet import CHECK_EVERY, UnetTraining
from tools.mini_model import time_ids
from tools.train_controlnet import MIN_SNR_GAMMA, UNCAPTIONED, build

EXCLUDE = ("conv_in", "time", "add_embedding")  # left to AdamW
WARM_STEPS = 60
EMA = 0.995


class ControlNetTraining:
    """A ControlNet for the UNet of ``base``, on its latents.

    Args:
        edges: uint8 (n, s, s / 8) on the card, packed, of the pictures of ``base`` in their order.
    """

    def __init__(
        self, card_run: CardRun, base: UnetTraining, edges: torch.Tensor, batch: int, lr: float
    ) -> None:
        self.card_run, self.base, self.edges, self.batch = card_run, base, edges, batch
        self.controlnet = build(base.ema.unet).to(
            card_run.device, memory_format=torch.channels_last
        )
        self.parameters = list(self.controlnet.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimizers = optimisation.Optimizers(
            self.controlnet, EXCLUDE, lr, muon_factor=2, betas=(0.9, 0.98)
        )
        self.step_weights = optimisation.timestep_weights(base.alphas, MIN_SNR_GAMMA)
        self.steps = 0

    def step(self, part: float) -> torch.Tensor:
        warmth = min(1, (self.steps + 1) / WARM_STEPS)
        self.optimizers.set_learning_rates(warmth * optimisation.cosine(part))
        loss = self._loss()
        self.optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step()
        self.steps += 1
        optimisation.update_ema(self.averages, self.parameters, self.steps, EMA)
        return loss.detach()

    def _loss(self) -> torch.Tensor:
        base, device = self.base, self.edges.device
        chosen = torch.randint(0, len(self.edges), (self.batch,), device=device)
        latents = base.latents[chosen]
        timesteps = torch.randint(0, len(base.alphas), (self.batch,), device=device)
        noise = torch.randn_like(latents)
        noisy = optimisation.add_noise(latents, noise, base.alphas[timesteps])
        with torch.no_grad():
            encoded = base.ema.encode(base.words.tokens(chosen, UNCAPTIONED))
        lines = unpacked(self.edges[chosen])[:, None].expand(-1, 3, -1, -1)
        noise_pred = self._predict(noisy, timesteps, encoded, lines)
        error = (noise_pred - noise).square().mean((1, 2, 3))
        return (error * self.step_weights[timesteps]).mean()

    def _predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        encoded: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        lines: torch.Tensor,
    ) -> torch.Tensor:
        """The noise in ``noisy`` (n, 4, h, w), with edges (n, 3, s, s) of 0 and 1."""
        embeds, pooled, _ = encoded
        sizes = time_ids(self.base.resolution, len(noisy)).to(noisy.device)
        added = {"text_embeds": pooled, "time_ids": sizes}
        with self.card_run.autocast():
            down, mid = self.controlnet(
                noisy,
                timesteps,
                encoder_hidden_states=embeds,
                controlnet_cond=lines.contiguous(memory_format=torch.channels_last),
                added_cond_kwargs=added,
                return_dict=False,
            )
            predicted = self.base.ema.predict(
                noisy,
                timesteps,
                encoded,
                self.base.resolution,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            )
        return predicted.float()

    def run(self, seconds: float) -> None:
        clock, mean = Clock(seconds), None
        while clock.part < 1:
            loss = self.step(clock.part)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if self.steps % CHECK_EVERY == 0:
                self.card_run.finish()
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.averages)
        self.card_run.save(self.controlnet.state_dict(), "controlnet.safetensors")
        self.card_run.note("controlnet", step=self.steps, loss=round(float(mean), 5))
