"""The text encoder of ``mini`` and the short way to train it.

Kolors pads every prompt on the left to 256 tokens, and its UNet attends to all of them. All pads of
a prompt have the same hidden state, so ``n`` of them weigh in a softmax as one with ``log n`` added
to its score: training runs on ``LENGTH`` tokens and gives what 256 would give.
"""

import torch
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

FULL_LENGTH = 256
LENGTH = 64


def config(vocabulary: int) -> dict:
    return {
        "num_layers": 3,
        "hidden_size": 192,
        "ffn_hidden_size": 512,
        "kv_channels": 32,
        "num_attention_heads": 6,
        "seq_length": 512,
        "padded_vocab_size": (vocabulary + 63) // 64 * 64,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
        "original_rope": True,
        "rmsnorm": True,
    }


def build(tokenizer: ChatGLMTokenizer) -> ChatGLMModel:
    model = ChatGLMModel(ChatGLMConfig(**config(tokenizer.vocab_size)), empty_init=False)
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            torch.nn.init.ones_(parameter)
        elif parameter.ndim < 2:
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.5 if "word_embeddings" in name else 0.05)
    return model


class WeightedAttention(torch.nn.Module):
    """ChatGLM's CoreAttention with a float bias (batch, 1, query, key) for its boolean mask."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, query, key, value, bias):
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias)
        return out.permute(2, 0, 1, 3).reshape(*out.shape[2:3], out.shape[0], self.width)


def weigh_pads(model: ChatGLMModel) -> ChatGLMModel:
    for layer in model.encoder.layers:
        layer.self_attention.core_attention = WeightedAttention(
            layer.self_attention.projection_size
        )
    return model


def encode_short(
    model: ChatGLMModel, tokens: dict
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encode tokens that are padded to a short length.

    Returns:
        prompt_embeds (b, l, d), pooled (b, d), the UNet's key bias (b, l).
    """
    real = tokens["attention_mask"].bool()
    batch, length = real.shape
    count = real.sum(1, keepdim=True)
    bias_of_pad = torch.log((FULL_LENGTH - count) / (length - count))
    key_bias = torch.where(real, torch.zeros_like(bias_of_pad), bias_of_pad)
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    allowed = torch.where(real[:, :, None], causal & real[:, None, :], True)
    bias = (
        key_bias[:, None, :]
        .expand(batch, length, length)
        .masked_fill(~allowed, float("-inf"))[:, None]
    )
    hidden = model(
        input_ids=tokens["input_ids"],
        position_ids=tokens["position_ids"],
        full_attention_mask=bias,
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return hidden[-2].permute(1, 0, 2), hidden[-1][-1], key_bias
