"""The state of training in one safetensors file, from which a run goes on to the same weights."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

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

    def save(self, path: Path) -> None:
        """Write the state to ``path``, whole or not at all."""
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, value in self.scaler.state_dict().items():
            tensors[f"scaler.{name}"] = torch.tensor(value, dtype=torch.float64)
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter] or _fresh(parameter)
            tensors["step"] = state["step"]
            tensors[f"lora.{name}"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state[moment]

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Take the state that ``save`` wrote to ``path``."""
        tensors = load_file(path)
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

    def _load_scaler(self, tensors: dict[str, torch.Tensor]) -> None:
        fresh = self.scaler.state_dict()
        self.scaler.load_state_dict(
            {name: type(value)(tensors[f"scaler.{name}"].item()) for name, value in fresh.items()}
        )


def _fresh(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state before its first step; it has none while every step overflowed in fp16."""
    return {"step": torch.tensor(0.0)} | {moment: torch.zeros_like(parameter) for moment in MOMENTS}
