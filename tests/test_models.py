import json
import os
import subprocess
import sys
from pathlib import Path

import original_layout
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from storyboard import bases, models
from storyboard.errors import BaseError

@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """A hub's folder of tiny SDXL, but for a UNet of a few hundred MB."""
    import diffusers

    folder = tiny.build("sdxl", tmp_path_factory.mktemp("middling"))
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"block_out_channels": [192, 384, 512], "transformer_layers_per_block": [1, 2, 4], "attention_head_dim": [2, 8, 8]}
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet", variant="fp16")
    return folder


def peak(what, path, precision="fp32", **variables):
    """Bytes that the process of ``peak.py`` took at most."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), what, str(path), precision]
    child = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | variables, timeout=300, check=True)
    return int(child.stdout.split()[-1])


needs_proc = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc to measure a peak")


@needs_proc
@pytest.mark.parametrize("what", ["draw", "train"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loading_takes_little_more_than_the_largest_component(middling, what, precision):
    largest = sum(path.stat().st_size for path in (middling / "unet").glob("*.safetensors"))
    taken = peak(what, middling, precision)
    assert largest > 5e8 and taken < 1.2 * largest, f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"


@needs_proc
def test_converting_a_single_file_takes_little_more_than_the_largest_component(middling, tmp_path):
    import diffusers

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(middling, variant="fp16", dtype=torch.float16)
    path = tmp_path / "single.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in original_layout.single_file(pipe).items()}, path)
    largest = sum(tensor.nbytes for tensor in pipe.unet.state_dict().values())
    taken = peak("convert", path, STORYBOARD_HUB=str(middling.parents[1]), STORYBOARD_CACHE=str(tmp_path / "cache"))
    assert largest > 4e8 and taken < 1.2 * largest, f"{taken / largest:.2f} of {largest / 1e6:.0f} MB"


@pytest.mark.parametrize("name", sorted(tiny.HUB))
def test_what_is_read_parity_with_what_the_libraries_load(hub, name):
    import diffusers

    base = hub(name)
    theirs = getattr(diffusers, base.pipeline).from_pretrained(base.folder, variant="fp16", dtype=torch.float32, **({"safety_checker": None} if name == "sd15" else {}))
    for component in base.components:
        ours, expected = models.load(base, component, torch.float32).state_dict(), getattr(theirs, component).state_dict()
        assert ours.keys() == expected.keys() and all(torch.equal(ours[key], expected[key]) for key in ours)


def test_a_checkpoint_without_rotary_frequencies_gets_them(hub, tmp_path):
    base = hub("kolors")
    whole = models.load(base, "text_encoder", torch.float32)
    spoilt = copied(base, tmp_path)
    for path in spoilt.weight_files("text_encoder"):
        tensors = {name: tensor for name, tensor in load_file(path).items() if not name.endswith(models.ROTARY)}
        save_file(tensors, path)
    assert torch.allclose(models.load(spoilt, "text_encoder", torch.float32).rotary_pos_emb.inv_freq, whole.rotary_pos_emb.inv_freq)


def copied(base, tmp_path):
    """``base`` in a folder whose files may be spoilt."""
    import dataclasses
    import shutil

    shutil.copytree(base.folder, tmp_path / "copy")
    return dataclasses.replace(base, folder=tmp_path / "copy")


@pytest.mark.parametrize("spoil, said", [
    (lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "conv_in.weight"}, r"1 of \d+ tensors are missing or differ .conv_in.weight should be \[32, 4, 3, 3\] and is absent"),
    (lambda tensors: tensors | {"conv_in.weight": tensors["conv_in.weight"].to(torch.float8_e4m3fn)}, "numbers of the type F8_E4M3: get the weights in fp16"),
    (lambda tensors: tensors | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}, r"should be \[32, 4, 3, 3\] and is \[32, 9, 3, 3\]"),
])
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
    from storyboard.bases.base import WHOLE_FILE_LIMIT

    base = copied(bases.get(str(middling)), tmp_path)
    before, path = base.fingerprint(), base.weight_files("unet")[0]
    assert path.stat().st_size > WHOLE_FILE_LIMIT
    tensors = load_file(path)
    save_file({name: tensor * 1.001 if name.startswith("up_blocks.1") else tensor for name, tensor in tensors.items()}, path)
    assert base.fingerprint() != before
