"""UNet and text encoder of ``mini`` in training, and pictures of where they stand."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from PIL import Image
from safetensors.torch import load_file

from tools import text
from tools.optimisation import SCHEDULE

UNET = {
    "sample_size": 32,
    "block_out_channels": (64, 96, 160),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (2, 3, 5),
    "use_linear_projection": True,
    "cross_attention_dim": 128,
    "encoder_hid_dim": 192,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 192 + 6 * 32,
}
EMBEDDINGS = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"  # the language-model head, which Kolors never calls
PREVIEW_STYLES = ("扁平插画，", "卡通，", "手绘头像，")
PREVIEW_CHINESE = (
    "紫色短发女孩，微笑，蓝色衣服，海边",
    "紫色短发女孩，难过，红色衣服，雨天",
    "金色长发女孩，大笑，绿色衣服，教室",
    "红色短发男孩，惊讶，白色衣服，粉色背景",
)
PREVIEW_ENGLISH = (
    "smiling, blue clothes, night sky",
    "sad, white clothes, snow",
    "laughing, red clothes, garden",
    "surprised, yellow clothes, stage",
)


class Mini(torch.nn.Module):
    """Text encoder and UNet as one module, trained jointly."""

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text.weigh_pads(text.build(tokenizer))
        self.unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)

    def warm_start(self, folder: Path) -> None:
        """Take the weights of a diffusers folder, word embeddings by their piece."""
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.unet.load_state_dict(unet.state_dict())

        weights = load_file(folder / "text_encoder" / "model.safetensors")
        weights = {key: value.float() for key, value in weights.items()}
        own = self.text_encoder.state_dict()
        embeddings, known_embeddings = own[EMBEDDINGS].clone(), weights[EMBEDDINGS]
        known = ChatGLMTokenizer(str(folder / "tokenizer" / "tokenizer.model"))
        known_rows = _rows_by_piece(known.tokenizer)
        for piece, row in _rows_by_piece(self.tokenizer.tokenizer).items():
            if piece in known_rows:
                embeddings[row] = known_embeddings[known_rows[piece]]
        self.text_encoder.load_state_dict(weights | {EMBEDDINGS: embeddings, OUTPUT: own[OUTPUT]})

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        captions: list[str],
        resolution: int,
    ) -> torch.Tensor:
        """The noise in ``noisy`` (n, 4, h, w)."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=text.LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        tokens = {name: tensor.to(noisy.device) for name, tensor in tokens.items()}
        return self.predict(noisy, timesteps, self.encode(tokens), resolution)

    def encode(self, tokens: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """prompt_embeds (n, l, d), pooled (n, d) and key bias (n, l) of tokens (n, l)."""
        return text.encode_short(self.text_encoder, tokens)

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        encoded: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        resolution: int,
        **residuals: object,
    ) -> torch.Tensor:
        """The noise in ``noisy`` (n, 4, h, w), by what ``encode`` gave."""
        embeds, pooled, key_bias = encoded
        # diffusers turns a mask m into a bias of (1 - m) * -10000
        return self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=embeds,
            encoder_attention_mask=1 + key_bias / 10000,
            added_cond_kwargs={
                "text_embeds": pooled,
                "time_ids": time_ids(resolution, len(noisy)).to(noisy.device),
            },
            **residuals,
        ).sample


def time_ids(resolution: int, count: int) -> torch.Tensor:
    """SDXL's size conditioning (count, 6) of whole square pictures."""
    row = [resolution, resolution, 0, 0, resolution, resolution]
    return torch.tensor([row] * count, dtype=torch.float32)


def _rows_by_piece(tokenizer) -> dict[str, int]:
    model = tokenizer.sp_model
    pieces = {model.id_to_piece(index): index for index in range(model.vocab_size())}
    return pieces | tokenizer.special_tokens


@torch.no_grad()
def sample(
    mini: Mini,
    captions: list[str],
    resolution: int,
    steps: int = 20,
    guidance_scale: float = 4.0,
    seed: int = 0,
) -> torch.Tensor:
    """Latents (n, 4, resolution / 8, resolution / 8)."""
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    side = resolution // 8
    device = next(mini.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(captions), 4, side, side, generator=generator).to(device)
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        both = mini(
            torch.cat([latents, latents]),
            timestep.expand(2 * len(captions)).to(device),
            captions + [""] * len(captions),
            resolution,
        )
        positive, negative = both.chunk(2)
        noise_pred = negative + guidance_scale * (positive - negative)
        latents = scheduler.step(noise_pred, timestep, latents).prev_sample
    return latents


@torch.no_grad()
def preview(mini: Mini, vae: AutoencoderKL, factor: float, resolution: int) -> Image.Image:
    """Sixteen held-out wordings, four styles by four, to look at while training goes on."""
    captions = [style + words for style in PREVIEW_STYLES for words in PREVIEW_CHINESE]
    head = "minimal avatar, a girl with short purple hair, "
    captions += [head + words for words in PREVIEW_ENGLISH]
    pictures = vae.decode(sample(mini, captions, resolution) / factor).sample.clamp(-1, 1)
    rows = [torch.cat(list(pictures[start : start + 4]), 2) for start in range(0, 16, 4)]
    pixels = ((torch.cat(rows, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())
