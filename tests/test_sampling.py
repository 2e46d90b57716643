"""Sampling: pictures that show nothing, what loading leaves alone, decoding in tiles."""

import pytest
import torch

from storyboard import Settings
from storyboard.errors import BaseError, RenderingError
from storyboard.models import bases, memory
from storyboard.models import loading as models
from storyboard.models.conditioning import Embedding
from storyboard.rendering import sampling

MINI = bases.get("mini")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (float("nan"), BaseError, "seed 1 is not finite, for vae has values that are not finite"),
        (0.0, RenderingError, "came out blank"),
    ],
)
def test_a_black_picture_is_an_error(spoil, error, message):
    pipe = sampling.load_pipeline(MINI, memory.plan(MINI, Settings()))
    for parameter in pipe.vae.decoder.parameters():
        parameter.data.fill_(spoil)
    if spoil == 0.0:  # one strong colour all over is as blank as black
        pipe.vae.decoder.conv_out.bias.data = torch.tensor([1.0, -1.0, -1.0])
    embeddings = [Embedding(torch.zeros(256, 192), torch.zeros(192))]
    with pytest.raises(error, match=message):
        next(sampling.draw(pipe, embeddings, embeddings, [1], 64, 2, 2.0))


def test_a_unet_in_training_stays_where_it_is(hub):
    """Graphs and moments know its memory: a preview must not lay its weights out anew."""
    base = hub("sd15")
    unet = models.load(base, "unet", torch.float32)
    unet.to(memory_format=torch.contiguous_format)
    before = {
        name: (parameter.data_ptr(), parameter.stride())
        for name, parameter in unet.named_parameters()
    }
    sampling.load_pipeline(base, memory.Plan("cpu", "fp32", False, 1, 1), unet=unet)
    assert before == {
        name: (parameter.data_ptr(), parameter.stride())
        for name, parameter in unet.named_parameters()
    }


@pytest.mark.slow
def test_a_vae_of_large_pictures_decodes_them_in_tiles(hub):
    """SDXL's VAE has a sample_size of 1024: in diffusers' own tiles a picture of 1024 is one."""
    base = hub("sdxl")
    pipe = sampling.load_pipeline(base, memory.Plan("cpu", "fp32", False, 1, 1, vae_tiling=True))
    assert pipe.vae.tile_sample_min_size == 64  # the tiny VAE's own, which is smaller
    pipe.vae.tile_sample_min_size = 1024
    sampling.decode_in_tiles(pipe.vae)
    sides = []
    pipe.vae.decoder.register_forward_pre_hook(
        lambda _module, args: sides.append(args[0].shape[-1])
    )
    picture = sampling.decode(pipe, torch.randn(1, 4, 80, 80))
    assert max(sides) == 64 and len(sides) == 4 and picture.shape[-2:] == (640, 640)
