"""The training of UNet and text encoder on a card, from the committed weights."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from storyboard.models import classifier
from tools import mini_latents, optimisation
from tools.captions import caption
from tools.card.card_run import CardRun, Clock
from tools.card.compiling import back_to_eager
from tools.card.gallery import as_floats
from tools.card.guard import Guard
from tools.card.measures import ROOT
from tools.card.words import Words
from tools.mini_model import Mini, preview, sample

MINI = ROOT / "models" / "mini"
EXCLUDE = ("conv_in", "conv_out", "word_embeddings", "output_layer")  # left to AdamW
WARM_STEPS = 100
EMA = 0.999
CAPTION_DROPOUT = 0.1
FACE, PROP = 4.0, 3.0  # how much more an error there counts
CRISP_FROM = 0.8  # of the time: from then on min-SNR's gamma is inf
PROMPT_STEPS, PROMPT_GUIDANCE = 20, 2.0
CHECK_EVERY = 10  # steps


def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(str(MINI / "tokenizer" / "tokenizer.model"))


def trainable(device: torch.device) -> Mini:
    """UNet and text encoder with the committed weights; without dropout, as it is 0 anyway."""
    mini = Mini(tokenizer())
    mini.warm_start(MINI)
    mini.text_encoder.output_layer.requires_grad_(False)
    return mini.to(device).eval()


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (n, s, s, 3) as ``mini_latents`` blurs them: float (n, 3, s, s) in [-1, 1]."""
    pictures = as_floats(pixels)
    radius = pixels.shape[1] / 80
    reach = int(3 * radius) + 1
    steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=torch.float32)
    bell = torch.exp(-0.5 * (steps / radius) ** 2)
    bell = (bell / bell.sum()).expand(3, 1, 1, -1)
    for kernel, padding in ((bell, (reach, reach, 0, 0)), (bell.mT, (0, 0, reach, reach))):
        pictures = F.conv2d(F.pad(pictures, padding, "replicate"), kernel, groups=3)
    return pictures


@torch.no_grad()
def encode(card_run: CardRun, vae: AutoencoderKL, pixels: torch.Tensor, blur: bool) -> torch.Tensor:
    """Means (n, 4, s / 8, s / 8) of pictures on the card, uint8 (n, s, s, 3)."""
    parts = []
    for some in pixels.split(64):
        pictures = blurred(some) if blur else as_floats(some)
        with card_run.autocast():
            parts.append(vae.encode(pictures).latent_dist.mean.float())
    return torch.cat(parts)


def with_blurred(rows: list[dict]) -> list[dict]:
    return rows + [row | {"blurred": True} for row in rows[:: mini_latents.BLURRED_EVERY]]


class UnetTraining:
    """UNet and text encoder, their EMA, and the latents.

    Args:
        vae: As trained, on the card.
        pixels: uint8 (n, s, s, 3) on the card.
        rows: Their attributes.
        words: Tokens of ``with_blurred(rows)``.
    """

    def __init__(
        self,
        card_run: CardRun,
        vae: AutoencoderKL,
        pixels: torch.Tensor,
        rows: list[dict],
        words: Words,
        batch: int,
        lr: float,
    ) -> None:
        self.card_run, self.vae, self.words, self.batch = card_run, vae, words, batch
        self.resolution = pixels.shape[1]
        every = mini_latents.BLURRED_EVERY
        clear, hazy = (
            encode(card_run, vae, pixels, False),
            encode(card_run, vae, pixels[::every], True),
        )
        self.factor = 1 / clear.std().item()
        self.latents = torch.cat([clear, hazy]) * self.factor
        least = 1 if card_run.dry else mini_latents.MIN_PICTURES
        self.weights = mini_latents.error_weights(
            self.latents, with_blurred(rows), FACE, PROP, least
        )

        self.mini, self.ema = trainable(card_run.device), trainable(card_run.device)
        self.ema.load_state_dict(self.mini.state_dict())  # what no file holds, too
        self.parameters, self.averages = (
            [p for p in mini.parameters() if p.requires_grad] for mini in (self.mini, self.ema)
        )
        self.ema.requires_grad_(False)
        if card_run.compiled("unet"):
            self.mini.unet.compile(dynamic=False)
        self.guard = Guard(self.parameters, self.averages)
        self.lr = lr
        self._begin_optimizers()
        self.alphas = optimisation.alphas_cumprod().to(card_run.device)
        self.step_weights = {
            gamma: optimisation.timestep_weights(self.alphas, gamma)
            for gamma in (5.0, float("inf"))
        }
        self.steps = 0

    def _begin_optimizers(self) -> None:
        self.optimizers = optimisation.Optimizers(
            self.mini, EXCLUDE, self.lr, muon_factor=2, betas=(0.9, 0.98)
        )

    def step(self, part: float) -> torch.Tensor:
        """One step when ``part`` of the time is over; its loss, still on the card."""
        warmth = min(1, (self.steps + 1) / WARM_STEPS)
        self.optimizers.set_learning_rates(warmth * optimisation.cosine(part))
        loss = self._loss(float("inf") if part > CRISP_FROM else 5.0)
        self.optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step()
        self.steps += 1
        optimisation.update_ema(self.averages, self.parameters, self.steps, EMA)
        return loss.detach()

    def _loss(self, gamma: float) -> torch.Tensor:
        device = self.latents.device
        chosen = torch.randint(0, len(self.latents), (self.batch,), device=device)
        latents = self.latents[chosen]
        timesteps = torch.randint(0, len(self.alphas), (self.batch,), device=device)
        noise = torch.randn_like(latents)
        noisy = optimisation.add_noise(latents, noise, self.alphas[timesteps])
        encoded = self.mini.encode(self.words.tokens(chosen, CAPTION_DROPOUT))
        with self.card_run.autocast():
            noise_pred = self.mini.predict(noisy, timesteps, encoded, self.resolution)
        error = (noise_pred.float() - noise).square() * self.weights[chosen]
        return (error.mean((1, 2, 3)) * self.step_weights[gamma][timesteps]).mean()

    def run(self, seconds: float, prompts: list[dict], every: float) -> None:
        """Train so long; saved every so many seconds, measured at the end."""
        card_run = self.card_run
        try:
            self.step(0.0)  # compiles
            card_run.finish()
        except Exception as error:
            back_to_eager(self.mini.unet)
            card_run.note("unet stays eager", error=str(error)[-500:])
        compiled = card_run.compiled("unet")
        card_run.note("first step", compiled=compiled, scaling_factor=self.factor)
        clock, mean, next_save = Clock(seconds), None, every
        while clock.part < 1:
            loss = self.step(clock.part)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if self.steps % CHECK_EVERY:
                continue
            if not self.guard.passes(float(mean)):  # waits for the card, too
                self.lr, mean = self.lr / 2, None
                self._begin_optimizers()
                card_run.note("unet: loss was no number", step=self.steps, lr=self.lr)
                continue
            if clock.elapsed > next_save:
                next_save = clock.elapsed + every
                self.report(float(mean), clock)
        self.report(float(mean), clock)
        picture = preview(self.ema, self.vae, self.factor, self.resolution)
        card_run.show("samples", picture)
        card_run.note("followed", **self.followed(prompts))

    def report(self, loss: float, clock: Clock) -> None:
        seconds = round(clock.elapsed, 1)
        self.card_run.note("unet", step=self.steps, seconds=seconds, loss=round(loss, 5))
        self.card_run.save(self.ema.unet.state_dict(), "unet.safetensors")
        self.card_run.save(self.ema.text_encoder.state_dict(), "text_encoder.safetensors")

    def followed(self, prompts: list[dict]) -> dict[str, dict[str, float]]:
        """Percent of pictures as asked, by language and attribute; the classifier reads them."""
        reader, percent = classifier.load(), {}
        for language in ("zh", "en"):
            captions = [caption(row, language) for row in prompts]
            pixels = self.draw(captions)
            percent[language] = classifier.accuracy(classifier.read(reader, pixels), prompts)
        return percent

    @torch.no_grad()
    def draw(self, captions: list[str]) -> np.ndarray:
        """Pictures of captions as the classifier takes them, uint8 (n, 128, 128, 3)."""
        shown = []
        for start in range(0, len(captions), 60):
            some = captions[start : start + 60]
            latents = sample(self.ema, some, self.resolution, PROMPT_STEPS, PROMPT_GUIDANCE, start)
            decoded = self.vae.decode(latents / self.factor).sample.clamp(-1, 1)
            small = F.interpolate(
                decoded, (classifier.SIDE,) * 2, mode="bicubic", antialias=True
            ).clamp(-1, 1)
            shown.append(((small + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(shown)
