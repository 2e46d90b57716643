import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import artifacts
from storyboard import lora as lora_file
from storyboard.errors import LoraError


def test_the_lora_is_in_kohyas_form_with_alpha_and_metadata(trained):
    settings, _, captions, lora = trained
    tensors = load_file(lora.path)
    names = lora_file.modules(lora.path)
    assert tensors.keys() == {f"{name}.{part}" for name in names for part in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert all(tensors[f"{name}.alpha"] == settings.alpha and tensors[f"{name}.lora_down.weight"].shape[0] == settings.rank for name in names)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    facts = lora_file.metadata(lora.path)
    assert facts["ss_network_dim"] == "16" and facts["ss_base_model_version"] == "mini" and facts["modelspec.architecture"].endswith("/lora")
    assert "二次元" in facts["ss_tag_frequency"] and facts["ss_num_train_images"] == str(len(captions))


def test_the_same_weights_give_the_same_file(tmp_path):
    state = {"a.to_q.lora_A.default.weight": torch.ones(2, 4), "a.to_q.lora_B.default.weight": torch.ones(4, 2)}
    facts = {f"fact_{number}": number for number in range(20)}
    for name in "ab":
        lora_file.save(tmp_path / name, state, 2, facts)
    assert artifacts.digest_of_file(tmp_path / "a") == artifacts.digest_of_file(tmp_path / "b")
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0 and list(json.loads(content[8:8 + length])["__metadata__"]) == sorted(facts)
    assert load_file(tmp_path / "a")["lora_unet_a_to_q.alpha"] == 2


def test_a_lora_that_learnt_nothing_or_broke_is_refused(tmp_path):
    state = {"a.to_q.lora_A.default.weight": torch.ones(2, 4), "a.to_q.lora_B.default.weight": torch.zeros(4, 2)}
    with pytest.raises(LoraError, match="all zeros"):
        lora_file.save(tmp_path / "l.safetensors", state, 2, {})
    state["a.to_q.lora_B.default.weight"][0, 0] = float("inf")
    with pytest.raises(LoraError, match="not finite"):
        lora_file.save(tmp_path / "l.safetensors", state, 2, {})


@pytest.mark.parametrize("write, said", [
    (lambda path: path.write_bytes(b"no weights"), "is not a whole safetensors file"),
    (lambda path: save_file({"x.lora_A.weight": torch.ones(2)}, path), "holds no LoRA in kohya's form"),
    (lambda path: save_file({"lora_unet_a.lora_down.weight": torch.ones(2), "lora_te_b.lora_down.weight": torch.ones(2)}, path), "holds 1 tensors beside its UNet LoRA"),
])
def test_a_file_that_is_no_kohya_lora_is_refused(tmp_path, write, said):
    path = tmp_path / "l.safetensors"
    write(path)
    with pytest.raises(LoraError, match=said):
        lora_file.modules(path)
