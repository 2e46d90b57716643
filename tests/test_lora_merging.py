"""``merge``: a base with a LoRA in its weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storyboard import Story, merge, render, train
from storyboard.errors import LoraError, StoryboardError
from storyboard.lora import file as lora
from storyboard.lora.names import module_path, path_of
from storyboard.models import bases
from tests import tiny

BASES = ("sdxl", "sd15", "kolors")


def drawn(settings, base, path, prompt, folder):
    """The pixels of one picture by ``base`` and the LoRA at ``path``."""
    settings = settings.but(base=str(base), output=str(folder))
    return np.asarray(Image.open(render(Story([prompt]), settings, path).paths[0]), int)


def tensors_of(base, component):
    return {
        key: tensor
        for file in base.weight_files(component)
        for key, tensor in load_file(file).items()
    }


def changed(base, merged, component):
    """Paths of the modules in ``component`` whose weights differ, after names and types."""
    before, after = tensors_of(base, component), tensors_of(merged, component)
    assert after.keys() >= {key for key in before if not key.endswith("position_ids")}
    assert all(after[key].dtype == before[key].dtype for key in after)
    return {
        module_path(component, key.removesuffix(".weight"))
        for key in after
        if not torch.equal(before[key], after[key])
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_merged_into_its_base(hub, make_settings, captions, name, tmp_path):
    """The sums are in the base's own precision, and draw what base and LoRA draw."""
    settings = make_settings(base=name, rank=4, alpha=3.0, train_steps=2, train_batch_size=2)
    settings = settings.but(num_inference_steps=2)
    base, trained = hub(name), train(captions, settings)
    folder = merge(trained, settings)
    assert folder == settings.folder / "merged"
    configs = [path.read_text(encoding="utf-8") for path in folder.rglob("*.json")]
    assert str(tmp_path) not in "".join(configs)

    merged = bases.get(str(folder))
    merged.check()
    assert changed(base, merged, "unet") == set(map(path_of, lora.modules(trained.path)))
    with_lora = drawn(settings, name, trained, "a girl", tmp_path / "one")
    of_merged = drawn(settings, folder, None, "a girl", tmp_path / "other")
    assert np.abs(with_lora - of_merged).max() <= 2


def test_a_lora_of_another_base_or_none_is_refused(hub, make_settings, tmp_path):
    hub("sd15")
    settings, path = make_settings(base="sd15"), tmp_path / "lora.safetensors"
    tiny.lora(hub("sdxl"), path)
    with pytest.raises(LoraError, match="was trained on the base 'sdxl'"):
        merge(path, settings, tmp_path / "merged")
    with pytest.raises(LoraError, match="There is no LoRA at"):
        merge(tmp_path / "none.safetensors", settings, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_nothing_but_an_earlier_merge_is_replaced(hub, make_settings, tmp_path):
    settings, path = make_settings(base="sd15"), tmp_path / "lora.safetensors"
    tiny.lora(hub("sd15"), path)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years", encoding="utf-8")
    for target in (mine, mine / "thesis.txt", path):
        with pytest.raises(LoraError, match="that merge did not write: name another one"):
            merge(path, settings, target)
    assert (mine / "thesis.txt").read_text(encoding="utf-8") == "years"

    first = merge(path, settings)
    weights = {file.name: file.read_bytes() for file in first.glob("unet/*")}
    assert merge(path, settings) == first
    assert {file.name: file.read_bytes() for file in first.glob("unet/*")} == weights
    with pytest.raises(LoraError, match="is the base itself"):
        merge(path, settings.but(base=str(first)), first)


def test_no_base_of_nan_is_written(hub, make_settings, tmp_path):
    base, path = tiny.copied(hub("sd15"), tmp_path / "base"), tmp_path / "lora.safetensors"
    tiny.lora(base, path)
    (file,) = base.weight_files("unet")
    tensors = load_file(file)
    tensors[next(key for key in tensors if key.endswith("attn2.to_q.weight"))][0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(StoryboardError, match="not finite") as error:
        merge(path, make_settings(base=str(tmp_path / "base")), tmp_path / "merged")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_merged_with_text_encoders(hub, make_settings, tmp_path, name):
    base, path = hub(name), tmp_path / "lora.safetensors"
    settings = make_settings(base=name, num_inference_steps=2)
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2))
    folder = merge(path, settings)
    merged = bases.get(str(folder))
    merged.check()
    paths = set(map(path_of, lora.modules(path)))
    for component in base.components:
        of_component = {each for each in paths if each.component == component}
        assert changed(base, merged, component) == of_component

    prompt = "a (girl:1.3)"
    with_lora = drawn(settings, name, path, prompt, tmp_path / "one")
    of_merged = drawn(settings, folder, None, prompt, tmp_path / "other")
    without = drawn(settings, name, None, prompt, tmp_path / "without")
    assert np.abs(with_lora - of_merged).max() <= 2 < np.abs(with_lora - without).max()
