import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError
from storyboard.models import bases, layout
from storyboard.models import loading as models
from tests import original_layout, tiny


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """A hub's folder of tiny SDXL, but for a UNet of a few hundred MB."""
    import diffusers

    folder = tiny.build("sdxl", tmp_path_factory.mktemp("middling"))
    config = json.loads((folder / "unet" / "config.json").read_text()) | {
        "block_out_channels": [192, 384, 512],
        "transformer_layers_per_block": [1, 2, 4],
        "attention_head_dim": [2, 8, 8],
    }
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(
        folder / "unet", variant="fp16"
    )
    return folder


def peak(what, path, precision="fp32", **variables):
    """Bytes that the process of ``peak.py`` took at most."""
    command = [sys.executable, "-m", "tests.peak", what, str(path), precision]
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        timeout=300,
        check=True,
    )
    return int(child.stdout.split()[-1])


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc to measure a peak"
)


@needs_proc
@pytest.mark.parametrize("what", ["draw", "train"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loading_takes_little_more_than_the_largest_component(middling, what, precision):
    largest = sum(path.stat().st_size for path in (middling / "unet").glob("*.safetensors"))
    taken = peak(what, middling, precision)
    assert largest > 5e8 and taken < 1.2 * largest, (
        f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"
    )


@needs_proc
def test_converting_a_single_file_takes_little_more_than_the_largest_component(middling, tmp_path):
    import diffusers

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        middling, variant="fp16", dtype=torch.float16
    )
    path = tmp_path / "single.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in original_layout.single_file(pipe).items()},
        path,
    )
    largest = sum(tensor.nbytes for tensor in pipe.unet.state_dict().values())
    taken = peak(
        "convert",
        path,
        STORYBOARD_HUB=str(middling.parents[1]),
        STORYBOARD_CACHE=str(tmp_path / "cache"),
    )
    assert largest > 4e8 and taken < 1.2 * largest, (
        f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"
    )


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
            models.load(base, component, torch.float32).state_dict(),
            getattr(theirs, component).state_dict(),
        )
        assert ours.keys() == expected.keys() and all(
            torch.equal(ours[key], expected[key]) for key in ours
        )


@pytest.fixture
def without_rotary(hub, tmp_path):
    """A tiny Kolors whose text encoder has no rotary frequencies in its files."""
    spoilt = copied(hub("kolors"), tmp_path)
    for path in spoilt.weight_files("text_encoder"):
        save_file(
            {
                name: tensor
                for name, tensor in load_file(path).items()
                if not name.endswith(layout.ROTARY)
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
        model = models.load(base, "text_encoder", dtype, **options)
        with torch.no_grad():
            return model(torch.arange(1, 9)[None], output_hidden_states=True).hidden_states[-1]

    filled = encode(without_rotary, **options)
    assert torch.equal(filled, encode(hub("kolors"))) and filled.dtype == dtype


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
    found = models.load(
        renamed(copied(base, tmp_path), component, name_of), component, torch.float32
    ).state_dict()
    expected = models.load(base, component, torch.float32).state_dict()
    assert found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in found
    )


def old_vae(base, tmp_path):
    """A copy of ``base`` with a VAE of diffusers before 0.18, its attention as 1x1 convolutions."""
    base = copied(base, tmp_path)
    path = base.weight_files("vae")[0]
    old = {}
    for name, tensor in load_file(path).items():
        if ".attentions." in name:
            for now, before in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                name = name.replace(now, before)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        old[name] = tensor.contiguous()
    save_file(old, path)
    return base


def test_old_attention_as_convolutions_is_read_in_training_and_drawing(hub, tmp_path):
    from storyboard.training.pipeline import TrainingPipeline

    base = hub("sdxl")
    expected, old = models.load(base, "vae", torch.float32).state_dict(), old_vae(base, tmp_path)
    training = TrainingPipeline.load(old, ("vae",), "cpu", torch.float32)
    for found in (models.load(old, "vae", torch.float32), training.vae):
        assert all(
            torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items()
        )


def copied(base, tmp_path):
    """``base`` in a folder whose files may be spoilt."""
    import dataclasses
    import shutil

    shutil.copytree(base.folder, tmp_path / "copy")
    return dataclasses.replace(base, folder=tmp_path / "copy")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda tensors: {
                name: tensor for name, tensor in tensors.items() if name != "conv_in.weight"
            },
            r"1 of \d+ tensors are missing or differ .conv_in.weight should be \[32, 4, 3, 3\] and is absent",
        ),
        (
            lambda tensors: (
                tensors | {"conv_in.weight": tensors["conv_in.weight"].to(torch.float8_e4m3fn)}
            ),
            "numbers of the type F8_E4M3: get the weights in fp16",
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
def test_weights_of_another_layout_are_named_with_what_was_expected(hub, tmp_path, spoil, said):
    base = copied(hub("sdxl"), tmp_path)
    path = base.weight_files("unet")[0]
    save_file(spoil(load_file(path)), path)
    with pytest.raises(BaseError, match=said) as error:
        models.load(base, "unet", torch.float32)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_shard_or_vocabulary_is_named(hub, tmp_path):
    base = copied(hub("kolors"), tmp_path)
    shard = base.weight_files("text_encoder")[1]
    shard.rename(shard.with_suffix(".gone"))
    with pytest.raises(BaseError, match=f"lacks .*{shard.name}"):
        base.check()
    shard.with_suffix(".gone").rename(shard)
    (base.folder / "tokenizer" / "tokenizer.model").unlink()
    with pytest.raises(BaseError, match="lacks a vocabulary in"):
        base.check()


def test_another_checkpoint_of_the_same_layout_has_another_fingerprint(middling, tmp_path):
    from storyboard.models.base import WHOLE_FILE_LIMIT

    base = copied(bases.get(str(middling)), tmp_path)
    before, path = base.fingerprint(), base.weight_files("unet")[0]
    assert path.stat().st_size > WHOLE_FILE_LIMIT
    tensors = load_file(path)
    save_file(
        {
            name: tensor * 1.001 if name.startswith("up_blocks.1") else tensor
            for name, tensor in tensors.items()
        },
        path,
    )
    assert base.fingerprint() != before
