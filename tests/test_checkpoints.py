import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import Settings
from storyboard.errors import BaseError
from storyboard.models import bases, weights
from storyboard.models import loading as models
from tests import original_layout


@pytest.fixture
def single(hub, tmp_path, monkeypatch):
    """(name) -> a checkpoint in the original layout of the tiny base, and the folder it was made from."""
    monkeypatch.setenv(weights.CACHE, str(tmp_path / "cache"))

    def make(name, **more):
        import diffusers

        folder = hub(name).folder
        pipe = getattr(diffusers, bases.get(name).pipeline).from_pretrained(
            folder, variant="fp16", **({"safety_checker": None} if name == "sd15" else {})
        )
        path = tmp_path / "anime.safetensors"
        save_file(
            {
                key: tensor.contiguous()
                for key, tensor in (original_layout.single_file(pipe) | more).items()
            },
            path,
        )
        return path, folder

    return make


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_is_the_folder_it_was_made_from_parity(single, name, capsys):
    path, folder = single(name)
    base = weights.fetch(bases.get(str(path)))
    assert (
        base.name == "anime"
        and base.kohya_name == bases.get(name).kohya_name
        and "base: reading" in capsys.readouterr().out
    )
    for component in base.components:
        ours = models.load(base, component, torch.float32).state_dict()
        theirs = {
            key: tensor
            for file in sorted((folder / component).glob("*.safetensors"))
            for key, tensor in load_file(file).items()
        }
        plain = lambda name: name.removeprefix("text_model.")
        theirs = {plain(key): tensor for key, tensor in theirs.items()}
        assert all(
            torch.equal(tensor, theirs[plain(key)])
            for key, tensor in ours.items()
            if "position_ids" not in key
        )
    weights.fetch(bases.get(str(path)))
    assert capsys.readouterr().out == ""  # converted once


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "is a LoRA, not a base"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "is Flux"),
        ({"conditioner.embedders.0.model.ln_final.weight": (4,)}, "is an SDXL refiner"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
            "is not a whole SD 1.5 or SDXL checkpoint: expected model.diffusion_model",
        ),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3),
                "cond_stage_model.transformer.a": (1,),
                "first_stage_model.b": (1,),
            },
            "takes 9 channels",
        ),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_said_at_once(tmp_path, tensors, said):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(BaseError, match=said) as error:
        bases.get(str(path))
    assert "\n" not in str(error.value) and "other.safetensors" in str(error.value)


def test_eight_bit_numbers_are_refused_at_once(single):
    path, _ = single("sd15")
    save_file(
        {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path
    )
    with pytest.raises(BaseError, match="numbers of the type F8_E4M3: get the checkpoint in fp16"):
        bases.get(str(path))


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BaseError, match="convert it first"):
        bases.get(str(tmp_path / "model.ckpt"))


def test_a_cut_off_file_is_named(single):
    path, _ = single("sd15")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        BaseError, match=r"anime.safetensors is \d+ bytes long where its header asks for \d+"
    ):
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
    assert (
        base.pipeline == "StableDiffusionXLPipeline"
        and base.resolution == 1024
        and base.folder == folder
    )


def test_an_old_merge_without_text_model_in_its_names(single):
    path, _ = single("sd15")
    old = {
        name.replace("transformer.text_model.", "transformer."): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(old, path)
    base = weights.fetch(bases.get(str(path)))
    assert models.load(base, "text_encoder", torch.float32)


@pytest.mark.parametrize(
    ("name", "part"), [("sd15", "text_encoder"), ("sdxl", "text_encoder_2"), ("sdxl", "unet")]
)
def test_a_tensor_that_is_missing_is_an_error(single, name, part):
    path, _ = single(name)
    tensors = load_file(path)
    start = {
        "text_encoder": "cond_stage_model",
        "text_encoder_2": "conditioner.embedders.1",
        "unet": "model.diffusion_model.middle",
    }[part]
    gone = next(key for key in sorted(tensors) if key.startswith(start) and key.endswith("bias"))
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, path)
    with pytest.raises(BaseError, match=f"does not hold the {part} of"):
        weights.fetch(bases.get(str(path)))


@pytest.mark.parametrize(
    ("keys", "modelspec", "expected"),
    [
        (("v_pred", "ztsnr"), None, ("v_prediction", True)),
        (
            ("v_pred",),
            "epsilon",
            ("v_prediction", False),
        ),  # a merge keeps the metadata of its parts: the key is what other programs go by
        ((), "v", ("v_prediction", False)),
        (("ztsnr",), "v", ("v_prediction", True)),
        ((), "epsilon", ("epsilon", False)),
        ((), None, ("epsilon", False)),
    ],
)
def test_a_single_file_says_what_it_predicts_and_so_does_its_folder(
    single, keys, modelspec, expected
):
    path, folder = single("sd15", **{key: torch.tensor([]) for key in keys})
    if modelspec:
        save_file(load_file(path), path, metadata={"modelspec.prediction_type": modelspec})
    base = weights.fetch(bases.get(str(path)))
    assert (base.prediction_type, base.zero_terminal_snr) == expected
    again = bases.get(str(base.folder))  # what was converted may be given as a folder
    assert (again.prediction_type, again.zero_terminal_snr) == expected
    schedule = base.folder / "scheduler" / "scheduler_config.json"
    assert (
        schedule.read_bytes() == (folder / "scheduler" / "scheduler_config.json").read_bytes()
    ) == (expected[0] == "epsilon")


@pytest.mark.parametrize(
    ("keys", "modelspec", "said"),
    [
        (("edm_mean", "edm_std"), None, r"has an EDM schedule \(the key edm_mean"),
        (
            ("edm_vpred.sigma_max", "v_pred"),
            None,
            r"has an EDM schedule \(the key edm_vpred.sigma_max",
        ),
        ((), "flow", "has the modelspec.prediction_type 'flow'"),
        (
            ("ztsnr",),
            None,
            r"predicts epsilon on a schedule with zero terminal SNR \(the key ztsnr\)",
        ),
    ],
)
def test_a_single_file_of_another_kind_of_schedule_is_refused_by_name(
    single, keys, modelspec, said
):
    path, _ = single("sdxl", **{key: torch.zeros(1) for key in keys})
    if modelspec:
        save_file(load_file(path), path, metadata={"modelspec.prediction_type": modelspec})
    with pytest.raises(BaseError, match=said) as error:
        bases.get(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_single_file_without_a_vae_takes_that_of_its_base(single, name, capsys):
    path, folder = single(name)
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if not key.startswith("first_stage_model.")
        },
        path,
    )
    base = weights.fetch(bases.get(str(path)))
    assert (
        f"anime.safetensors holds no VAE, it takes that of {bases.get(name).huggingface}"
        in capsys.readouterr().out
    )
    theirs = load_file(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    ours = models.load(base, "vae", torch.float32).state_dict()
    assert ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[key]) for key, tensor in ours.items()
    )
    capsys.readouterr()
    weights.fetch(bases.get(str(path)))
    assert capsys.readouterr().out == ""


def test_the_vae_that_a_single_file_lacks_is_asked_of_the_hub(single, monkeypatch):
    path, folder = single("sd15")
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if not key.startswith("first_stage_model.")
        },
        path,
    )
    listed = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file()
    }
    asked = {}
    monkeypatch.setattr(
        weights,
        "_from_hubs",
        lambda title, model, choose, *rest, **named: asked.update(files=choose(listed)) or folder,
    )
    weights.fetch(bases.get(str(path)))
    assert [name for name in asked["files"] if name.endswith(".safetensors")] == [
        "vae/diffusion_pytorch_model.fp16.safetensors"
    ]
    assert "unet/config.json" in asked["files"] and "tokenizer/vocab.json" in asked["files"]


def test_a_vae_that_is_there_in_part_is_an_error(single):
    path, _ = single("sd15")
    save_file(
        {
            key: tensor
            for key, tensor in load_file(path).items()
            if "first_stage_model.decoder" not in key
        },
        path,
    )
    with pytest.raises(BaseError, match="does not hold the vae"):
        weights.fetch(bases.get(str(path)))


# scheduler_config.json of Playground v2.5 and others, and what is said of each
SCHEDULES = {
    "edm": (
        {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "prediction_type": "epsilon",
            "sigma_data": 0.5,
        },
        "has an EDM schedule",
    ),
    "edm euler": (
        {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
        "has an EDM schedule",
    ),
    "flow": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        "was trained by flow matching",
    ),
    "flow sigmas": (
        {
            "_class_name": "UniPCMultistepScheduler",
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
        },
        "was trained by flow matching",
    ),
    "trained betas": (
        {"_class_name": "DDIMScheduler", "trained_betas": [0.1] * 1000},
        "trained_betas in scheduler/scheduler_config.json",
    ),
    "linear": (
        {
            "_class_name": "DDIMScheduler",
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
        },
        "has the beta_schedule 'linear'",
    ),
    "cosine": (
        {
            "_class_name": "DDPMScheduler",
            "beta_schedule": "squaredcos_cap_v2",
            "trained_betas": None,
        },
        "has the beta_schedule 'squaredcos_cap_v2'",
    ),
    "sample": (
        {"_class_name": "EulerDiscreteScheduler", "prediction_type": "sample"},
        "has the prediction_type 'sample'",
    ),
    "epsilon to zero": (
        {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
        "predicts epsilon on a schedule with zero terminal SNR",
    ),
}


@pytest.fixture
def edited(hub, tmp_path):
    """(name, file, changes) -> a copy of the tiny base's folder in which the JSON ``file`` has these values."""

    def make(name, file, changes):
        folder = tmp_path / "edited"
        shutil.copytree(hub(name).folder, folder)
        path = folder / file
        path.write_text(
            json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | changes)
        )
        return folder

    return make


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_folder_of_another_kind_of_schedule_is_refused_by_name(edited, case):
    changes, said = SCHEDULES[case]
    folder = edited("sdxl", "scheduler/scheduler_config.json", changes)
    with pytest.raises(BaseError, match=said) as error:
        bases.get(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "changes", "said"),
    [
        (
            "sdxl",
            "vae/config.json",
            {
                "latents_mean": [-1.6, 1.5, 0.4, -0.3],
                "latents_std": [8.4, 5.8, 4.2, 4.0],
                "scaling_factor": 0.5,
            },
            "a VAE with latents_mean",
        ),
        ("sdxl", "vae/config.json", {"shift_factor": 0.1159}, "a VAE with shift_factor"),
        ("sd15", "unet/config.json", {"cross_attention_dim": 1024}, "is Stable Diffusion 2"),
        ("sd15", "unet/config.json", {"in_channels": 9}, "takes 9 channels"),
        (
            "kolors",
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            r'Kolors in its original layout.*set base="kolors", which fetches Kwai-Kolors/Kolors-diffusers',
        ),
    ],
)
def test_a_folder_that_would_be_read_wrongly_is_refused_by_name(edited, name, file, changes, said):
    folder = edited(name, file, changes)
    with pytest.raises(BaseError, match=said) as error:
        bases.get(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_the_id_of_kolors_in_its_original_layout_is_refused_with_a_pointer():
    with pytest.raises(BaseError, match="Kwai-Kolors/Kolors-diffusers"):
        Settings(base="Kwai-Kolors/Kolors")


def test_keys_of_a_vae_that_are_null_are_no_keys(edited):
    folder = edited(
        "sdxl", "vae/config.json", {"latents_mean": None, "latents_std": None, "shift_factor": None}
    )
    assert weights.fetch(bases.get(str(folder))).prediction_type == "epsilon"
