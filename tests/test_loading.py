"""Modules of transformers and diffusers: whole from their files, or an error."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from storyboard.errors import BaseError
from storyboard.models import loading
from tests import tiny

LAYER = "vision_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("name", sorted(tiny.HUB))
def test_what_is_read_parity_with_what_the_libraries_load(hub, name):
    import diffusers

    base = hub(name)
    theirs = getattr(diffusers, base.pipeline).from_pretrained(
        base.folder,
        variant="fp16",
        dtype=torch.float32,
        **({"safety_checker": None} if name == "sd15" else {}),
    )
    for component in base.components:
        ours, expected = (
            loading.load(base, component, torch.float32).state_dict(),
            getattr(theirs, component).state_dict(),
        )
        assert ours.keys() == expected.keys() and all(
            torch.equal(ours[key], expected[key]) for key in ours
        )


@pytest.fixture
def without_rotary(hub, tmp_path):
    """A tiny Kolors whose text encoder has no rotary frequencies in its files."""
    spoilt = tiny.copied(hub("kolors"), tmp_path / "copy")
    for path in spoilt.weight_files("text_encoder"):
        save_file(
            {
                name: tensor
                for name, tensor in load_file(path).items()
                if not name.endswith(loading.ROTARY)
            },
            path,
        )
    return spoilt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options", [{}, {"low_cpu_mem_usage": True}], ids=["read by us", "from_pretrained"]
)
def test_a_checkpoint_without_rotary_frequencies_gets_them(hub, without_rotary, dtype, options):
    def encode(base, **options):
        model = loading.load(base, "text_encoder", dtype, **options)
        with torch.no_grad():
            return model(torch.arange(1, 9)[None], output_hidden_states=True).hidden_states[-1]

    filled = encode(without_rotary, **options)
    assert torch.equal(filled, encode(hub("kolors"))) and filled.dtype == dtype


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
    model = loading.pretrained(CLIPVisionModelWithProjection, encoder, dtype=torch.float32)
    there = load_file(encoder / "model.safetensors")
    assert not model.training and torch.equal(model.state_dict()[LAYER], there[LAYER])


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_nothing_is_filled_with_random_numbers(encoder, change, message, options):
    spoil(encoder, change)
    with pytest.raises(BaseError, match=message) as error:
        loading.pretrained(CLIPVisionModelWithProjection, encoder, **options)
    assert "\n" not in str(error.value) and str(encoder) in str(error.value)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("cut off", "is cut off or not this file, get it again"),
        ("gone", "get the config and the weights of the same model"),
        ("no config", "config.json is missing: get the config and the weights of the same model"),
    ],
)
def test_files_that_are_not_whole_are_an_error_of_ours(encoder, spoilt, message):
    path = encoder / "model.safetensors"
    if spoilt == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        (path if spoilt == "gone" else encoder / "config.json").unlink()
    with pytest.raises(BaseError, match=message) as error:
        loading.pretrained(CLIPVisionModelWithProjection, encoder)
    assert "\n" not in str(error.value)
