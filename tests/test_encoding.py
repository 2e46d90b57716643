"""Pictures encoded share by share."""

import pytest
import torch
from PIL import Image

from storyboard import collect
from storyboard.models import bases
from storyboard.models.run import run_on
from storyboard.training import cache, encoding


@pytest.fixture
def wide(folder, make_settings):
    """Ten captioned pictures, every third of them wide, and their run."""
    for seed in range(0, 10, 3):
        Image.open(folder / f"{seed}.png").resize((256, 128)).save(folder / f"{seed}.png")
    settings = make_settings(base="mini", dataset=str(folder), resolution=128)
    return collect(settings), run_on(bases.get("mini"), settings)


def test_shares_are_all_pictures_in_the_order_of_their_rows(wide):
    captions, _ = wide
    texts = cache.texts_of(captions)
    made = encoding.shares(captions, texts, 4)
    assert [len(each.paths) for each in made] == [4, 4, 2]
    assert [path for each in made for path in each.paths] == list(map(captions.path, captions.rows))
    named = [texts[index] for each in made for index in each.captions]
    assert named == [row.text for row in captions.rows]


@pytest.mark.slow
def test_latents_of_shares_are_those_of_all_at_once(wide):
    captions, run = wide
    texts, encoder = cache.texts_of(captions), encoding.Encoder(run)
    [share] = encoding.shares(captions, texts)
    whole = encoder(share)
    assert len(whole["latents"]) == 2  # buckets
    parts = encoding.joined(map(encoder, encoding.shares(captions, texts, 4)))
    for bucket, latents in whole["latents"].items():
        # smaller batches round otherwise
        assert torch.allclose(parts["latents"][bucket], latents, atol=1e-4)
        assert parts["captions"][bucket].tolist() == whole["captions"][bucket].tolist()
        assert torch.equal(parts["time_ids"][bucket], whole["time_ids"][bucket])
