"""The VAE's training on a card."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from tools import optimisation, train_vae, widen
from tools.card import compiling, patches
from tools.card.card_run import CardRun, Clock
from tools.card.gallery import Gallery
from tools.card.guard import Guard
from tools.card.measures import ROOT, Measures

EXCLUDE = ("conv_in", "conv_out", "quant_conv")  # left to AdamW
WARM_STEPS = 100
EMA = 0.998
REFRESH_EVERY = 10  # steps: new drawings, and the clock
CRISP_FROM = 0.15  # of the time: before, patches say nothing that the L1 does not


class ReadyVae:
    """A VAE that is not trained, in the place of a ``VaeTraining``.

    Args:
        folder: Of diffusers' files.
    """

    def __init__(self, card_run: CardRun, folder: Path) -> None:
        self.card_run = card_run
        self.ema = AutoencoderKL.from_pretrained(folder).requires_grad_(False).eval()
        self.ema.to(card_run.device, memory_format=torch.channels_last)

    def save(self, scaling_factor: float) -> None:
        save(self.card_run, self.ema, scaling_factor)


class VaeTraining:
    """A wider VAE, from the committed one's weights.

    Args:
        widths: Channels, highest resolution first.
        crisp: Weight of the patches' distribution in the loss.
    """

    def __init__(
        self,
        card_run: CardRun,
        gallery: Gallery,
        widths: list[int],
        batch: int,
        lr: float,
        crisp: float,
        warm: bool = True,
    ) -> None:
        self.card_run, self.gallery = card_run, gallery
        self.batch, self.crisp = batch, crisp
        self.vae = compiling.trainable_vae(widths, card_run.device)
        if warm:
            known = AutoencoderKL.from_pretrained(ROOT / "models" / "mini" / "vae")
            widen.load(self.vae, known.state_dict(), train_vae.CONFIG["norm_num_groups"])
        self.ema = copy.deepcopy(self.vae).requires_grad_(False)
        self.compiled = False
        self.clock = Clock(1)
        self.parameters, self.averages = list(self.vae.parameters()), list(self.ema.parameters())
        self.guard = Guard(self.parameters, self.averages)
        self.lr = lr
        self._begin_optimizers()
        self.steps = 0

    def _begin_optimizers(self) -> None:
        self.optimizers = optimisation.Optimizers(
            self.vae, EXCLUDE, self.lr, muon_factor=2.5, betas=(0.9, 0.99)
        )

    def step(self, part: float) -> torch.Tensor:
        """One step when ``part`` of the time is over; its loss, still on the card."""
        warmth = min(1, (self.steps + 1) / WARM_STEPS)
        self.optimizers.set_learning_rates(warmth * optimisation.cosine(part))
        target = self.gallery.batch(self.batch)
        target = target.contiguous(memory_format=torch.channels_last)
        decoded, posterior = compiling.vae_forward(self.vae, target)
        decoded = decoded.float()
        loss = train_vae.loss_of(decoded, target, posterior.kl().float().mean())
        if self.crisp and part > CRISP_FROM:
            loss = loss + self.crisp * patches.sliced_loss(decoded, target)
        self.optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, 1.0)
        self.optimizers.step()
        self.steps += 1
        optimisation.update_ema(self.averages, self.parameters, self.steps, EMA)
        return loss.detach()

    def run(self, seconds: float, measures: Measures, every: float) -> None:
        """Train so long; measured and saved every so many seconds, and at the end."""
        card_run = self.card_run
        card_run.note("vae before", **measures.measure(self.ema))
        self.clock, mean, next_measure = Clock(seconds), None, every
        clock = self.clock
        while clock.part < 1:
            loss = self.step(clock.part)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if self.steps % REFRESH_EVERY:
                continue
            if not self.guard.passes(float(mean)):  # waits for the card, too
                self.lr, mean = self.lr / 2, None
                self._begin_optimizers()
                card_run.note("vae: loss was no number", step=self.steps, lr=self.lr)
                continue
            self._change_over()
            drawn = self.gallery.to_card(card_run.device)
            if clock.elapsed > next_measure:
                next_measure = clock.elapsed + every
                self.report(measures, mean.item(), clock, drawn)
        self.report(measures, float(mean), clock, self.gallery.to_card(card_run.device))
        card_run.show("reconstructions", measures.sheet(self.ema))

    def _change_over(self) -> None:
        """Compile as soon as the compiler's cache has what it takes."""
        if self.compiled or not self.card_run.compiled("vae"):
            return
        self.compiled = True
        self.card_run.note("vae compiling", step=self.steps)
        compiling.compile_vae(self.vae)
        try:
            self.step(self.clock.part)
            self.card_run.finish()
            self.card_run.note("vae compiled")
        except Exception as error:
            compiling.back_to_eager(self.vae.encoder, self.vae.decoder)
            self.card_run.note("vae stays eager", error=str(error)[-500:])

    def report(self, measures: Measures, loss: float, clock: Clock, drawn: float) -> None:
        self.card_run.note(
            "vae",
            step=self.steps,
            seconds=round(clock.elapsed, 1),
            loss=round(loss, 5),
            drawn=round(drawn, 2),
            **measures.measure(self.ema),
        )
        self.save()

    def save(self, scaling_factor: float = 1.0) -> None:
        save(self.card_run, self.ema, scaling_factor)


def save(card_run: CardRun, vae: AutoencoderKL, scaling_factor: float) -> None:
    """The folder ``vae`` of the results."""
    vae.register_to_config(scaling_factor=scaling_factor, force_upcast=False)
    vae.save_config(card_run.output / "vae")
    card_run.save(vae.state_dict(), "vae/diffusion_pytorch_model.safetensors")
