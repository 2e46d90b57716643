import original_layout
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from storyboard import bases, models, weights
from storyboard.errors import BaseError


@pytest.fixture
def single(hub, tmp_path, monkeypatch):
    """(name) -> a checkpoint in the original layout of the tiny base, and the folder it was made from."""
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))

    def make(name, **more):
        import diffusers

        folder = hub(name).folder
        pipe = getattr(diffusers, bases.get(name).pipeline).from_pretrained(folder, variant="fp16", **({"safety_checker": None} if name == "sd15" else {}))
        path = tmp_path / "anime.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in (original_layout.single_file(pipe) | more).items()}, path)
        return path, folder
    return make


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_is_the_folder_it_was_made_from_parity(single, name, capsys):
    path, folder = single(name)
    base = weights.fetch(bases.get(str(path)))
    assert base.name == "anime" and base.kohya_name == bases.get(name).kohya_name and "base: reading" in capsys.readouterr().out
    for component in base.components:
        ours = models.load(base, component, torch.float32).state_dict()
        theirs = {key: tensor for file in sorted((folder / component).glob("*.safetensors")) for key, tensor in load_file(file).items()}
        plain = lambda name: name.removeprefix("text_model.")
        theirs = {plain(key): tensor for key, tensor in theirs.items()}
        assert all(torch.equal(tensor, theirs[plain(key)]) for key, tensor in ours.items() if "position_ids" not in key)
    weights.fetch(bases.get(str(path)))
    assert capsys.readouterr().out == ""  # converted once


@pytest.mark.parametrize("tensors, said", [
    ({"lora_unet_x.lora_down.weight": (4, 4)}, "is a LoRA, not a base"),
    ({"v_pred": (1,)}, "predicts velocity"),
    ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "is Flux"),
    ({"conditioner.embedders.0.model.ln_final.weight": (4,)}, "is an SDXL refiner"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "is not a whole SD 1.5 or SDXL checkpoint: expected model.diffusion_model"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3), "cond_stage_model.transformer.a": (1,), "first_stage_model.b": (1,)}, "takes 9 channels"),
])
def test_what_is_no_checkpoint_of_ours_is_said_at_once(tmp_path, tensors, said):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(BaseError, match=said) as error:
        bases.get(str(path))
    assert "\n" not in str(error.value) and "other.safetensors" in str(error.value)


def test_eight_bit_numbers_are_refused_at_once(single):
    path, _ = single("sd15")
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(BaseError, match="numbers of the type F8_E4M3: get the checkpoint in fp16"):
        bases.get(str(path))


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BaseError, match="convert it first"):
        bases.get(str(tmp_path / "model.ckpt"))


def test_a_cut_off_file_is_named(single):
    path, _ = single("sd15")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BaseError, match=r"anime.safetensors is \d+ bytes long where its header asks for \d+"):
        weights.fetch(bases.get(str(path)))


def test_another_width_than_the_config_is_named(single, hub_root, tmp_path, monkeypatch):
    path, folder = single("sd15")
    tensors = load_file(path)
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    save_file(tensors | {name: torch.zeros(32, 48)}, path)
    with pytest.raises(BaseError, match="anime") as error:
        models.load(weights.fetch(bases.get(str(path))), "unet", torch.float32)
    assert "\n" not in str(error.value)


def test_a_diffusers_folder_by_its_path(hub):
    folder = hub("sdxl").folder
    base = weights.fetch(bases.get(str(folder)))
    assert base.pipeline == "StableDiffusionXLPipeline" and base.resolution == 1024 and base.folder == folder


def test_an_old_merge_without_text_model_in_its_names(single):
    path, _ = single("sd15")
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in load_file(path).items()}
    save_file(old, path)
    base = weights.fetch(bases.get(str(path)))
    assert models.load(base, "text_encoder", torch.float32)


@pytest.mark.parametrize("name, part", [("sd15", "text_encoder"), ("sdxl", "text_encoder_2"), ("sdxl", "unet")])
def test_a_tensor_that_is_missing_is_an_error(single, name, part):
    path, _ = single(name)
    tensors = load_file(path)
    start = {"text_encoder": "cond_stage_model", "text_encoder_2": "conditioner.embedders.1", "unet": "model.diffusion_model.middle"}[part]
    gone = next(key for key in sorted(tensors) if key.startswith(start) and key.endswith("bias"))
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, path)
    with pytest.raises(BaseError, match=f"does not hold the {part} of"):
        weights.fetch(bases.get(str(path)))


def test_a_v_prediction_checkpoint_by_its_metadata(tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"modelspec.prediction_type": "v"})
    with pytest.raises(BaseError, match="predicts velocity"):
        bases.get(str(path))
