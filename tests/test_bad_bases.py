"""Folders of base models that are damaged or odd: one sentence, before anything is loaded."""

import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError, SettingsError
from storyboard.models import bases, conditioning, weights
from storyboard.models.run import run_on
from tests import tiny
from tests.spoilt_bases import edit, opened, refused

UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"


@pytest.fixture
def copy(hub, tmp_path):
    """Folder of a tiny SD 1.5 whose files may be spoilt."""
    return tiny.copied(hub("sd15"), tmp_path / "copy").folder


def test_an_untouched_copy_is_opened(copy):
    assert opened(copy).family.name == "sd15"


FORMS = {
    "empty": (b"", "it is no JSON"),
    "null": (b"null", "it is no JSON object"),
    "list": (b"[1]", "it is no JSON object"),
    "cut": (b'{"a": 1', "it is no JSON"),
    "a web page": (b"<!DOCTYPE html>", "it is no JSON"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "it is not UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "deep": (b'{"a":' * 9000 + b"1" + b"}" * 9000, "nested deeper than"),
    "not so deep": (b'{"a":' * 50 + b"1" + b"}" * 50, "nested deeper than"),
    "twice": (b'{"a": 1, "a": 2}', "the key 'a' twice"),
    "infinite": (b'{"a": Infinity}', "the number Infinity"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", "is damaged"),
    "large": (b'{"a": "' + b"x" * (33 * 2**20) + b'"}', "35 MB of JSON"),
}
JSON_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    UNET,
    VAE,
    TEXT,
    "tokenizer/vocab.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
)


@pytest.mark.parametrize(
    ("file", "form"),
    [*((TEXT, form) for form in FORMS), *((file, "cut") for file in JSON_FILES)],
)
def test_a_json_file_that_is_damaged_is_named(copy, file, form):
    content, reason = FORMS[form]
    (copy / file).write_bytes(content)
    refused(copy, str(copy / file), reason)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dead link"])
def test_what_is_no_file_is_as_if_it_were_missing(copy, kind):
    path = copy / TEXT
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(copy / "nowhere")
    refused(copy, str(path))


VALUES = (
    ("model_index.json", "force_zeros_for_empty_prompt", "no", "which is neither true nor false"),
    (TEXT, "num_hidden_layers", 1_000_000, "asks for 1,000,000 layers (num_hidden_layers)"),
    (TEXT, "num_hidden_layers", 10**9, "which is not from 1 to 1048576"),
    (TEXT, "num_hidden_layers", -1, "num_hidden_layers=-1"),
    (TEXT, "num_attention_heads", 0, "num_attention_heads=0"),
    (TEXT, "num_attention_heads", 5, "does not describe a CLIPTextModel"),
    (TEXT, "hidden_size", "32", "hidden_size='32'"),
    (TEXT, "hidden_size", 64, "tensors are missing or differ"),
    (TEXT, "vocab_size", True, "vocab_size=True"),
    (TEXT, "hidden_act", "no such", "does not describe a CLIPTextModel"),
    (TEXT, "hidden_act", 5, "hidden_act=5, where CLIPTextConfig takes str"),
    (TEXT, "max_position_embeddings", 10**12, "max_position_embeddings=1000000000000"),
    (TEXT, "layer_norm_eps", -1, "layer_norm_eps=-1, which is no number above 0"),
    (TEXT, "quantization_config", {"load_in_8bit": True}, "which is not supported"),
    (TEXT, "eos_token_id", 7, "eos_token_id=7, where the tokenizer beside it ends with"),
    (UNET, "layers_per_block", 500_000, "asks for 500,000 layers (layers_per_block"),
    (UNET, "transformer_layers_per_block", [1, [9, 70_000], 1, 1], "asks for 140,000 layers"),
    (UNET, "block_out_channels", 32, "does not describe a UNet2DConditionModel"),
    (UNET, "block_out_channels", [32, 64, 64, "64"], "block_out_channels=[32, 64, 64, '64']"),
    (UNET, "block_out_channels", [32] * 500, "which is more than 64 numbers"),
    (UNET, "norm_num_groups", 7, "does not describe a UNet2DConditionModel"),
    (UNET, "attention_head_dim", 0, "attention_head_dim=0"),
    (UNET, "act_fn", None, "act_fn=None"),
    (UNET, "flip_sin_to_cos", "no", "flip_sin_to_cos='no', where UNet2DConditionModel takes bool"),
    (UNET, "freq_shift", 0.5, "freq_shift=0.5, where UNet2DConditionModel takes int"),
    (UNET, "down_block_types", ["X"] * 4, "does not describe a UNet2DConditionModel"),
    (UNET, "class_embed_type", "identity", "class_embed_type='identity', which is not supported"),
    (UNET, "sample_size", 10**6, "sample_size=1000000, which is not from 1 to 1024"),
    (UNET, "sample_size", True, "sample_size=True"),
    (VAE, "scaling_factor", 0, "scaling_factor=0, which is no number above 0"),
    (VAE, "scaling_factor", "0.18", "scaling_factor='0.18'"),
    (VAE, "latent_channels", {}, "latent_channels={}"),
    ("tokenizer/tokenizer_config.json", "model_max_length", 10**30, "reads 77 tokens"),
    ("tokenizer/tokenizer_config.json", "model_max_length", "77", "model_max_length='77'"),
    ("tokenizer/tokenizer_config.json", "eos_token", 5, "eos_token=5, which is no text"),
    ("tokenizer/tokenizer_config.json", "pad_token", {"content": []}, "pad_token="),
)


@pytest.mark.parametrize(("file", "key", "value", "message"), VALUES)
def test_a_value_that_cannot_be_is_named_at_once(copy, file, key, value, message):
    edit(copy / file, lambda content: content.update({key: value}))
    began = time.process_time()
    refused(copy, message, file.rpartition("/")[2])
    assert time.process_time() - began < 5


SCHEDULES = (
    ({"prediction_type": ["epsilon"]}, "prediction_type=['epsilon']"),
    ({"_class_name": 5}, "_class_name=5"),
    ({"_class_name": "CogVideoXDDIMScheduler"}, "has a CogVideoXDDIMScheduler"),
    ({"_class_name": "KarrasVeScheduler"}, "only discrete schedules"),
    ({"beta_schedule": {}}, "beta_schedule={}"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
    ({"num_train_timesteps": 10**7}, "num_train_timesteps=10000000"),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps='1000'"),
    ({"beta_start": 0.02, "beta_end": 0.01}, "betas rise between 0 and 1"),
    ({"beta_end": 1.5}, "beta_end=1.5"),
    ({"beta_start": None}, "beta_start=None"),
    ({"rescale_betas_zero_snr": "yes"}, "rescale_betas_zero_snr='yes'"),
)


@pytest.mark.parametrize(("changes", "message"), SCHEDULES)
def test_an_odd_schedule_is_refused_by_its_key(copy, changes, message):
    edit(copy / "scheduler/scheduler_config.json", lambda content: content.update(changes))
    refused(copy, message, "scheduler_config.json")


def test_a_schedule_of_other_betas_is_the_one_that_is_trained_and_drawn_on(copy):
    changes = {"num_train_timesteps": 1100, "beta_start": 0.0009, "beta_end": 0.014}
    edit(copy / "scheduler/scheduler_config.json", lambda content: content.update(changes))
    base = opened(copy)
    assert (base.num_train_timesteps, base.beta_start, base.beta_end) == (1100, 0.0009, 0.014)


def test_weights_that_are_not_finite_are_named(copy, make_settings):
    path = copy / "text_encoder" / "model.fp16.safetensors"
    tensors = load_file(path)
    name = next(each for each in tensors if each.endswith("final_layer_norm.weight"))
    tensors[name][0] = torch.nan
    save_file(tensors, path)
    run = run_on(opened(copy), make_settings(base=str(copy)))
    with pytest.raises(BaseError, match="text_encoder has values that are not finite in .*final_l"):
        conditioning.encode(run, ["a cat"])


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/base", "\0", "../" * 2000])
def test_a_name_that_is_no_path_is_no_base(name):
    with pytest.raises(SettingsError, match="There is no base called") as error:
        bases.get(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["no id", "x" * 5000, "a/b/c", "https://a/b", "..\\.."])
def test_a_name_that_is_neither_a_folder_nor_an_id_is_not_asked_of_the_hubs(name):
    with pytest.raises(BaseError, match="is no folder here and no id at the hubs"):
        weights.fetch_module(name, "The ControlNet")
