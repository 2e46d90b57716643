"""Train the networks of ``mini`` on a CUDA card: python -m tools.train_on_card --pack P --output O

VAE, then UNet and text encoder on its latents, then the edge ControlNet, each for so many seconds.
The pack (``python -m tools.card.make_pack``) holds drawings as SVG text; all cores render them
while the VAE trains. The output gets eight files at most, each when its phase ends and once in a
while before:

    vae/config.json, vae/diffusion_pytorch_model.safetensors, unet.safetensors,
    text_encoder.safetensors, controlnet.safetensors    fp16, to be put into models/
    train.log    JSON lines: PSNR by set, patch distance, loss, prompts followed
    reconstructions.png, samples.png

``--dry`` does all of it in tiny on the CPU.
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from tools.card.card_run import CardRun
from tools.card.compiling import Beside
from tools.card.controlnet import ControlNetTraining
from tools.card.drawings import Pack
from tools.card.gallery import ART, Gallery, workers
from tools.card.measures import ROOT, Measures
from tools.card.unet import UnetTraining, tokenizer, with_blurred
from tools.card.vae import ReadyVae, VaeTraining
from tools.card.words import Words

PATIENCE = 120  # seconds for drawings that are missing when the UNet's turn comes
COMPILER_PATIENCE = 5  # seconds for a compiler that is late


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae", type=Path, help="a VAE's folder, which is not trained then")
    parser.add_argument("--vae-seconds", type=float, default=150)
    parser.add_argument("--unet-seconds", type=float, default=110)
    parser.add_argument("--controlnet-seconds", type=float, default=30)
    parser.add_argument("--widths", type=int, nargs=4, default=[32, 64, 128, 136])
    parser.add_argument("--vae-batch", type=int, default=32)
    parser.add_argument("--vae-lr", type=float, default=2e-3)
    parser.add_argument("--crisp", type=float, default=0.1, help="weight of the patches' loss")
    parser.add_argument("--unet-batch", type=int, default=256)
    parser.add_argument("--unet-lr", type=float, default=1e-3)
    parser.add_argument("--controlnet-batch", type=int, default=64)
    parser.add_argument("--strokes", type=int, default=12000, help="procedural drawings")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--every", type=float, default=40, help="seconds between measurements")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="in tiny, on the CPU")
    arguments = parser.parse_args()
    if arguments.dry:
        tiny = {"vae_seconds": 6, "unet_seconds": 3, "controlnet_seconds": 2, "every": 3}
        tiny |= {"vae_batch": 2, "unet_batch": 4, "controlnet_batch": 2, "strokes": 64}
        vars(arguments).update(tiny, workers=2, eager=True)
    return arguments


class Run:
    """The three phases, one after the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        side, limit = (64, 160) if arguments.dry else (256, 0)
        pack = Pack.read(arguments.pack)
        self.art = [name for name in pack.drawings if name.startswith(ART)]
        self.rows = [row for name in self.art for row in pack.rows[name][: limit or None]]
        self.gallery = Gallery(pack, side, arguments.strokes, limit, arguments.seed)
        self.words = Words(tokenizer(), with_blurred(self.rows))
        self.pool = workers(arguments.workers)  # forked before CUDA is used
        self.words.begin(self.pool)
        self.gallery.begin(self.pool)
        torch.manual_seed(arguments.seed)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        device = "cpu" if arguments.dry else "cuda"
        self.compiling = Beside(
            [
                "--widths",
                *map(str, arguments.widths),
                *("--vae-batch", str(0 if arguments.vae else arguments.vae_batch)),
                *("--unet-batch", str(arguments.unet_batch)),
                *("--side", str(side)),
                *("--device", device),
            ],
            not arguments.eager,
        )
        self.card_run = CardRun(arguments.output, device, arguments.dry, self.compiling.has)
        self.own = pack.pictures

    def all(self) -> None:
        note = self.card_run.note
        note("begun", art=len(self.rows), device=_name(self.card_run.device))
        given = self.arguments.vae
        vae = ReadyVae(self.card_run, given) if given else self._vae()
        self._phase("unet", lambda: self._unet(vae))
        self._phase("controlnet", self._controlnet)
        note("done", failures=self.gallery.failures[:5])
        self.compiling.end()
        self.pool.terminate()

    def _vae(self) -> VaeTraining:
        a, card_run = self.arguments, self.card_run
        self._first_drawings()
        measures = Measures(card_run, self.gallery, self.own)
        vae = VaeTraining(card_run, self.gallery, a.widths, a.vae_batch, a.vae_lr, a.crisp)
        card_run.note("vae", parameters=sum(p.numel() for p in vae.vae.parameters()))
        self._phase("vae", lambda: vae.run(a.vae_seconds, measures, a.every))
        return vae

    def _phase(self, name: str, work: Callable[[], None]) -> None:
        """A phase that fails leaves what the others made."""
        try:
            work()
        except Exception:
            self.card_run.note(f"{name} failed", error=traceback.format_exc()[-3000:])
            if self.arguments.dry:
                raise

    def _first_drawings(self) -> None:
        """Wait until every set has what is measured with, and something to train on."""
        sources = self.gallery.sources.values()
        while any(source.ready < source.first for source in sources):
            time.sleep(0.05)
        drawn = self.gallery.to_card(self.card_run.device)
        self.card_run.note("first drawings", drawn=round(drawn, 3))

    def _unet(self, vae: VaeTraining | ReadyVae) -> None:
        a, card_run = self.arguments, self.card_run
        self.gallery.wait(self.art, PATIENCE)
        self.gallery.to_card(card_run.device)
        self.words.to_card(card_run.device)
        self.compiling.wait(COMPILER_PATIENCE)
        pixels = torch.cat([self.gallery.sources[name].card for name in self.art])
        self.unet = UnetTraining(
            card_run, vae.ema, pixels, self.rows, self.words, a.unet_batch, a.unet_lr
        )
        vae.save(self.unet.factor)
        prompts = json.loads((ROOT / "benchmarks" / "prompts.json").read_text())
        self.unet.run(a.unet_seconds, prompts[:1] if a.dry else prompts, a.every)

    def _controlnet(self) -> None:
        a, card_run = self.arguments, self.card_run
        sources = [self.gallery.sources[name] for name in self.art]
        edges = torch.cat([torch.from_numpy(source.edges) for source in sources])
        training = ControlNetTraining(
            card_run, self.unet, edges.to(card_run.device), a.controlnet_batch, a.unet_lr
        )
        training.run(a.controlnet_seconds)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


def main() -> None:
    Run(command_line()).all()


if __name__ == "__main__":
    main()
