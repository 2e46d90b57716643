"""The tools that train ``mini``: what the trainings on a CPU and on a card share."""

import numpy as np
import pytest
import torch

from tools import mini_latents, muon, train_vae, widen
from tools.card import patches, strokes

GROUPS = train_vae.CONFIG["norm_num_groups"]


def test_a_wider_vae_computes_the_same():
    torch.manual_seed(0)
    narrow = train_vae.network((8, 16, 16, 24)).eval()
    wide = train_vae.network((16, 32, 32, 24)).eval()
    widen.load(wide, narrow.state_dict(), GROUPS, noise=0.0)
    pictures = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        means = [vae.encode(pictures).latent_dist.mean for vae in (narrow, wide)]
        decoded = [vae.decode(means[0]).sample for vae in (narrow, wide)]
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded[1], decoded[0], rtol=1e-4, atol=1e-4)


def test_widening_refuses_another_network():
    with pytest.raises(ValueError, match="more than their widths"):
        widen.load(torch.nn.Linear(2, 2), torch.nn.Conv2d(2, 2, 1, bias=False).state_dict(), 1)


def test_muon_orthogonalises_matrices_together_as_one_by_one():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 16)
    together = muon.orthogonalise(matrices)
    for matrix, direction in zip(matrices, together, strict=True):
        torch.testing.assert_close(direction, muon.orthogonalise(matrix), rtol=0.05, atol=0.02)
        values = torch.linalg.svdvals(direction)
        assert values.min() > 0.5 and values.max() < 1.5


def test_blur_is_farther_in_patches_than_another_half_of_the_same():
    torch.manual_seed(0)
    pictures = (torch.rand(8, 3, 64, 64) > 0.8).float()
    blurred = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1)
    same = patches.distance(pictures[1::2], pictures[::2], count=2000)
    assert patches.distance(blurred[1::2], pictures[::2], count=2000)[0] > 3 * same[0]
    assert patches.sliced_loss(blurred, pictures) > patches.sliced_loss(pictures, pictures)


def test_procedural_drawings_are_the_same_for_the_same_seed():
    texts = [strokes.drawing(seed) for seed in range(20)]
    assert texts == [strokes.drawing(seed) for seed in range(20)]
    assert len(set(texts)) == 20
    assert np.mean([len(text) for text in texts]) > 500


def test_an_error_weighs_where_the_figure_was_put():
    """Faces differ at one latent of half figures; from afar and turned round it lies elsewhere."""
    generator = torch.Generator().manual_seed(0)
    latents, rows = 0.01 * torch.randn(60, 4, 32, 32, generator=generator), []
    for index, expression in enumerate(["sad", "smiling"] * 30):
        rows.append({"style": "micah", "expression": expression, "prop": None})
        latents[index, :, 12, 20] += 5.0 * (expression == "sad")
    placed = {"scale": 0.5, "dx": 32, "dy": 128}
    rows[0] = rows[0] | {"framing": "wide", "facing": "right", "placed": placed}
    rows[1] = rows[1] | {"framing": "wide", "facing": "left", "placed": placed}

    weights = mini_latents.error_weights(latents, rows, face=4.0, prop=3.0)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(60))
    peaks = [divmod(weight.argmax().item(), 32) for weight in weights]
    assert set(peaks[2:]) == {(12, 20)}
    x, y = 0.5 * 20.5 + 4, 0.5 * 12.5 + 16  # centre of the latent, where the figure was put
    assert peaks[0] == (int(y), int(x)) and peaks[1] == (int(y), int(32 - x))
