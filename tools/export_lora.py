"""Write ``models/mini-lora`` from a run of the defaults: python -m tools.export_lora OUTPUTS

``OUTPUTS`` is the output folder of ``python -m storyboard``. The LoRA is kept in fp16, half as
large; what it was trained on stays in its metadata.
"""

import sys
from pathlib import Path

import torch

from storyboard import artifacts, resources
from storyboard.lora import reading
from storyboard.lora.file import serialised
from storyboard.notebook import EXAMPLE_LORA


def main() -> None:
    trained = Path(sys.argv[1]) / "lora" / "lora.safetensors"
    tensors, metadata = reading.content(trained)
    halved = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
    artifacts.write_atomically(resources.path(EXAMPLE_LORA), serialised(halved, metadata))


if __name__ == "__main__":
    main()
