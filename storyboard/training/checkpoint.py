"""The state of training in one safetensors file, from which a run goes on to the same weights."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from storyboard import disks
from storyboard.models import tensor_files
from storyboard.models.tensor_files import DamagedFile

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


@dataclass
class TrainingState:
    """What changes from step to step.

    Attributes:
        parameters: Weights of the LoRA by peft's names.
        losses: One for each finished step.
    """

    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    losses: list[float] = field(default_factory=list)

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the LoRA as they are, on the CPU."""
        return {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of the state, by the names that ``take`` knows."""
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, value in self.scaler.state_dict().items():
            tensors[f"scaler.{name}"] = torch.tensor(value, dtype=torch.float64)
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter] or _fresh(parameter)
            tensors["step"] = state["step"]
            tensors[f"lora.{name}"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state[moment]
        return tensors

    def save(self, path: Path) -> None:
        """Write the state to ``path``, whole or not at all."""
        with disks.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        tensor_files.write(path, self.tensors())

    def load(self, path: Path, steps: int) -> None:
        """Take the state that ``save`` wrote to ``path``, all of it or nothing.

        Args:
            steps: Of the whole training, at most which it holds.

        Raises:
            DamagedFile: It is cut off, changed, or of another LoRA.
        """
        tensors = tensor_files.read(path)
        self._check(tensors, steps)
        self.take(tensors)

    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        """Become the state whose ``tensors`` these are."""
        self.losses[:] = tensors["losses"].tolist()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"lora.{name}"])
            # fused AdamW walks through memory: the moments must lie as the parameter does
            moments = {
                moment: torch.empty_like(parameter).copy_(tensors[f"{moment}.{name}"])
                for moment in MOMENTS
            }
            # fewer steps than losses where gradients overflowed in fp16
            step = tensors["step"].to(parameter.device, copy=True)
            self.optimizer.state[parameter] = {"step": step} | moments

        if self.scaler.is_enabled():
            self._load_scaler(tensors)

    def _check(self, tensors: dict[str, torch.Tensor], steps: int) -> None:
        """Raise DamagedFile unless ``tensors`` are a state of these parameters."""
        losses = tensors.get("losses", torch.tensor([math.nan]))
        if losses.ndim != 1 or not 0 < len(losses) <= steps or not torch.isfinite(losses).all():
            raise DamagedFile("its losses are not those of this training")
        wanted = {"step": torch.Size([])}
        for name, parameter in self.parameters.items():
            for kind in ("lora", *MOMENTS):
                wanted[f"{kind}.{name}"] = parameter.shape
        if self.scaler.is_enabled():
            wanted |= {f"scaler.{name}": torch.Size([]) for name in self.scaler.state_dict()}
        for name, shape in wanted.items():
            if name not in tensors or tensors[name].shape != shape:
                raise DamagedFile(f"it holds no {name} of the shape {list(shape)}")

    def _load_scaler(self, tensors: dict[str, torch.Tensor]) -> None:
        fresh = self.scaler.state_dict()
        self.scaler.load_state_dict(
            {name: type(value)(tensors[f"scaler.{name}"].item()) for name, value in fresh.items()}
        )


def _fresh(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state before its first step; it has none while every step overflowed in fp16."""
    return {"step": torch.tensor(0.0)} | {moment: torch.zeros_like(parameter) for moment in MOMENTS}
