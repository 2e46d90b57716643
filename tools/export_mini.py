"""Write ``models/mini`` from checkpoints: python -m tools.export_mini WORK models/mini

Layout of a diffusers Kolors folder, weights in fp16 safetensors.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, KolorsPipeline, UNet2DConditionModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tools import mini_latents, text
from tools.mini_model import UNET
from tools.optimisation import SCHEDULE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    state = torch.load(arguments.work / "unet-ema.ckpt", weights_only=True)
    tokenizer = ChatGLMTokenizer(str(arguments.work / "tokenizer.model"))
    text_encoder = text.build(tokenizer)
    text_encoder.load_state_dict(_part(state["ema"], "text_encoder"))
    unet = UNet2DConditionModel(**UNET | {"sample_size": state["resolution"] // 8})
    unet.load_state_dict(_part(state["ema"], "unet"))
    vae = mini_latents.load_vae(arguments.work)
    vae.register_to_config(
        scaling_factor=json.loads((arguments.work / "scaling_factor.json").read_text()),
        force_upcast=False,
    )
    scheduler = EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading")
    pipe = KolorsPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
    )
    pipe.to(torch.float16).save_pretrained(arguments.target, safe_serialization=True)
    for path in sorted(arguments.target.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")


def _part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


if __name__ == "__main__":
    main()
