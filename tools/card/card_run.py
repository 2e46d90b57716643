"""Clock, log and results of a training on a card."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file


class Clock:
    """A budget of seconds, which the learning rate follows."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def part(self) -> float:
        """Of the budget that is used, 0 to 1."""
        return min(1.0, self.elapsed / self.seconds)


class CardRun:
    """Where results go.

    Args:
        output: Gets eight files at most: weights, ``train.log`` of JSON lines, two pictures.
        device: Of the training.
        dry: Everything in tiny.
        compiled: Whether a network of this name may be compiled by now.
    """

    def __init__(
        self, output: Path, device: str, dry: bool, compiled: Callable[[str], bool]
    ) -> None:
        self.output = output
        self.device = torch.device(device)
        self.dry = dry
        self.compiled = compiled
        self.clock = Clock(1)
        self.pictures: dict[str, list[Image.Image]] = {}
        output.mkdir(parents=True, exist_ok=True)

    def note(self, what: str, **values: object) -> None:
        """One line of the log, on the screen too."""
        line = json.dumps({"at": round(self.clock.elapsed, 1), "what": what} | values)
        print(line, flush=True)
        with (self.output / "train.log").open("a") as log:
            log.write(line + "\n")

    def finish(self) -> None:
        """Wait for the card, so that the clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def save(self, weights: dict[str, torch.Tensor], name: str) -> None:
        """Weights in fp16, whole or not at all, as ``save_pretrained`` writes them."""
        target = self.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # copies: a pooled layer's tensors may share memory, which safetensors refuses
        halves = {key: value.detach().half().cpu().contiguous() for key, value in weights.items()}
        temporary = target.with_suffix(".tmp")
        save_file(halves, temporary, {"format": "pt"})
        temporary.replace(target)

    def show(self, name: str, picture: Image.Image) -> None:
        """Add a picture below those of the same name in ``<name>.png``."""
        rows = self.pictures.setdefault(name, [])
        rows.append(picture)
        width = max(row.width for row in rows)
        sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        sheet.save(self.output / f"{name}.png")
