"""Models of transformers and diffusers: whole from their files, or an error."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from storyboard.errors import BaseError
from storyboard.models import layout

LAYER = "vision_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture
def encoder(tmp_path):
    """Folder of a tiny image encoder."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=24,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    return tmp_path


def spoil(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_what_is_in_the_file_is_loaded(encoder):
    computed = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}  # in older files
    spoil(encoder, lambda tensors: tensors.update(computed))
    model = layout.pretrained(CLIPVisionModelWithProjection, encoder, dtype=torch.float32)
    there = load_file(encoder / "model.safetensors")
    assert not model.training and torch.equal(model.state_dict()[LAYER], there[LAYER])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(LAYER), f"1 tensors differ, such as: {LAYER} is missing"),
        (lambda tensors: tensors.update(strange=torch.zeros(2)), "strange is unexpected"),
        (
            lambda tensors: tensors.update({LAYER: torch.zeros(3, 3)}),
            "cannot be loaded as CLIPVisionModelWithProjection",
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"device_map": "meta"}], ids=["loaded", "only checked"])
def test_nothing_is_filled_with_random_numbers(encoder, change, said, options):
    spoil(encoder, change)
    with pytest.raises(BaseError, match=said) as error:
        layout.pretrained(CLIPVisionModelWithProjection, encoder, **options)
    assert "\n" not in str(error.value) and str(encoder) in str(error.value)


@pytest.mark.parametrize("spoilt", ["cut off", "gone", "no config"])
def test_files_that_are_not_whole_are_an_error_of_ours(encoder, spoilt):
    path = encoder / "model.safetensors"
    if spoilt == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        (path if spoilt == "gone" else encoder / "config.json").unlink()
    with pytest.raises(
        BaseError, match="get the config and the weights of the same model"
    ) as error:
        layout.pretrained(CLIPVisionModelWithProjection, encoder)
    assert "\n" not in str(error.value)


def test_a_linear_layer_and_a_convolution_of_one_pixel_hold_the_same_numbers():
    flat, square = torch.nn.Linear(3, 2, bias=False), torch.nn.Conv2d(3, 2, 1, bias=False)
    model = torch.nn.ModuleDict({"flat": flat, "square": square})
    assert layout.differences(model, {"flat.weight": (2, 3, 1, 1), "square.weight": (2, 3)}) == []
    assert layout.differences(model, {"flat.weight": (2, 3, 3, 3), "square.weight": (3, 2)}) == [
        "flat.weight should be [2, 3] and is [2, 3, 3, 3]",
        "square.weight should be [2, 3, 1, 1] and is [3, 2]",
    ]
