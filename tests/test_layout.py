"""Names and shapes of tensors, of other releases of the libraries too."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError
from storyboard.models import layout, loading
from storyboard.training.pipeline import TrainingPipeline
from tests import tiny

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def renamed(base, component, name_of):
    """``component`` of ``base`` with other names in its files."""
    for path in base.weight_files(component):
        save_file({name_of(name): tensor for name, tensor in load_file(path).items()}, path)
    return base


@pytest.mark.parametrize(
    ("name", "component", "name_of"),
    [
        ("sdxl", "text_encoder", lambda name: "text_model." + name.removeprefix("text_model.")),
        ("sdxl", "text_encoder", lambda name: name.removeprefix("text_model.")),
        ("sdxl", "text_encoder_2", lambda name: name.removeprefix("text_model.")),
        ("kolors", "text_encoder", lambda name: f"transformer.{name}"),
    ],
)
def test_prefixes_of_other_releases_of_transformers_are_read(
    hub, tmp_path, name, component, name_of
):
    base = hub(name)
    found = loading.load(
        renamed(tiny.copied(base, tmp_path / "copy"), component, name_of), component, torch.float32
    ).state_dict()
    expected = loading.load(base, component, torch.float32).state_dict()
    assert found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in found
    )


def old_vae(base, tmp_path):
    """A copy of ``base`` with a VAE of diffusers before 0.18, its attention as 1x1 convolutions."""
    base = tiny.copied(base, tmp_path / "copy")
    path = base.weight_files("vae")[0]
    old = {}
    for name, tensor in load_file(path).items():
        is_linear = ".attentions." in name and tensor.ndim == 2
        old_tensor = tensor[:, :, None, None] if is_linear else tensor
        old[old_name(name)] = old_tensor.contiguous()
    save_file(old, path)
    return base


def old_name(name):
    """What diffusers before 0.18 called a tensor of the VAE."""
    if ".attentions." in name:
        for now, before in OLD_ATTENTION.items():
            name = name.replace(now, before)
    return name


def test_old_attention_as_convolutions_is_read_in_training_and_drawing(hub, tmp_path):
    base = hub("sdxl")
    expected, old = loading.load(base, "vae", torch.float32).state_dict(), old_vae(base, tmp_path)
    training = TrainingPipeline.load(old, ("vae",), "cpu", torch.float32)
    for found in (loading.load(old, "vae", torch.float32), training.vae):
        assert all(
            torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items()
        )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda tensors: {
                name: tensor for name, tensor in tensors.items() if name != "conv_in.weight"
            },
            r"1 of \d+ tensors are missing or differ .conv_in.weight should be .* and is absent",
        ),
        (
            lambda tensors: (
                tensors | {"conv_in.weight": tensors["conv_in.weight"].to(torch.float8_e4m3fn)}
            ),
            "numbers of the type F8_E4M3 in .*: get the weights in fp16",
        ),
        (
            lambda tensors: tensors | {"time_proj.scale": torch.zeros(4)},
            r"differ .time_proj.scale has no place there",
        ),
        (
            lambda tensors: tensors | {"conv_in.weight": torch.zeros(32, 9, 3, 3)},
            r"should be \[32, 4, 3, 3\] and is \[32, 9, 3, 3\]",
        ),
    ],
)
def test_weights_of_another_layout_are_named_with_what_was_expected(hub, tmp_path, spoil, message):
    base = tiny.copied(hub("sdxl"), tmp_path / "copy")
    path = base.weight_files("unet")[0]
    save_file(spoil(load_file(path)), path)
    with pytest.raises(BaseError, match=message) as error:
        loading.load(base, "unet", torch.float32)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_linear_layer_and_a_convolution_of_one_pixel_hold_the_same_numbers():
    flat, square = torch.nn.Linear(3, 2, bias=False), torch.nn.Conv2d(3, 2, 1, bias=False)
    model = torch.nn.ModuleDict({"flat": flat, "square": square})
    assert layout.differences(model, {"flat.weight": (2, 3, 1, 1), "square.weight": (2, 3)}) == []
    assert layout.differences(model, {"flat.weight": (2, 3, 3, 3), "square.weight": (3, 2)}) == [
        "flat.weight should be [2, 3] and is [2, 3, 3, 3]",
        "square.weight should be [2, 3, 1, 1] and is [3, 2]",
    ]
