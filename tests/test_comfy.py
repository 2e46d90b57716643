import getpass
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from storyboard import Panel, Story, render, save_workflow, workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import reading
from storyboard.lora import file as lora
from storyboard.models import loading
from tests.comfy_graphs import FAMILIES, changed, panels, read_again
from tests.comfy_rules import check_api, check_ui


@pytest.mark.parametrize("base", FAMILIES)
@pytest.mark.parametrize("guidance_end", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("lora_digest", ["abc", None])
def test_comfy_forms_are_valid_and_come_back_the_same(base, guidance_end, lora_digest):
    made = workflow(panels(base, guidance_end, lora_digest), strength=0.8)
    check_api(made["api"])
    check_ui(made["ui"])
    for form in made.values():
        again = workflow(**read_again(form))
        assert json.dumps(again, sort_keys=True) == json.dumps(made, sort_keys=True)
        story = reading.read_story(form)
        assert [(panel.prompt, panel.negative_prompt, panel.seed) for panel in story] == [
            (panel.prompt, panel.negative_prompt, panel.seed) for panel in panels(base)
        ]


def test_comfy_draws_each_panel_with_its_own_words_seed_and_lora():
    api = workflow(panels("sdxl"), "style.safetensors", 0.6, {"ckpt_name": "mine.safetensors"})[
        "api"
    ]
    saved = [node for node in api.values() if node["class_type"] == "SaveImage"]
    assert len(saved) == 8
    for index, node in enumerate(saved):

        def source(node, name):
            return api[node["inputs"][name][0]]

        sampler = source(source(node, "images"), "samples")
        assert (
            sampler["inputs"]["seed"] == 7 + index
            and sampler["inputs"]["sampler_name"] == "dpmpp_2m"
            and sampler["inputs"]["scheduler"] == "karras"
        )
        assert source(sampler, "positive")["inputs"]["text"] == f"紫色短发女孩 {index}"
        assert (
            source(sampler, "negative")["inputs"].get("text", "")
            == panels("sdxl")[index].negative_prompt
        )
        assert source(sampler, "latent_image")["inputs"] == {
            "width": 768,
            "height": 1024,
            "batch_size": 1,
        }
        lora_node = source(sampler, "model")
        assert (
            lora_node["inputs"]["lora_name"] == "style.safetensors"
            and lora_node["inputs"]["strength_model"] == 0.6
        )
        assert source(lora_node, "model")["inputs"] == {"ckpt_name": "mine.safetensors"}
    assert not any(
        "Lora" in node["class_type"] for node in workflow(panels("sdxl", lora=None))["api"].values()
    )


@pytest.mark.parametrize("base", ["sdxl", "sd15"])
def test_comfy_gives_the_text_encoders_part_of_a_lora_to_the_prompts(base):
    """Such a LoRA goes through LoraLoader, and every prompt takes its text encoder from there."""
    some = [changed(panel, lora={"text_encoder": True}) for panel in panels(base)]
    for strength_clip in (None, 0.3):
        made = workflow(some, "style.safetensors", 0.6, strength_clip=strength_clip)
        check_api(made["api"])
        check_ui(made["ui"])
        (loader,) = (key for key, node in made["api"].items() if "Lora" in node["class_type"])
        assert made["api"][loader]["inputs"] == {
            "model": ["1", 0],
            "clip": ["1", 1],
            "lora_name": "style.safetensors",
            "strength_model": 0.6,
            "strength_clip": 0.6 if strength_clip is None else strength_clip,
        }
        takers = [
            (name, value)
            for node in made["api"].values()
            for name, value in node["inputs"].items()
            if name in ("model", "clip") and value[0] != "1"
        ]
        assert set(map(str, takers)) == {
            f"('model', ['{loader}', 0])",
            f"('clip', ['{loader}', 1])",
        }
        assert all(
            node["inputs"]["clip"] == [loader, 1]
            for node in made["api"].values()
            if node["class_type"] == "CLIPTextEncode"
        )
        for form in made.values():
            assert json.dumps(workflow(**read_again(form)), sort_keys=True) == json.dumps(
                made, sort_keys=True
            )
    with pytest.raises(SettingsError, match="strength_clip=21 must be a number from -20 to 20"):
        workflow(some, strength_clip=21)
    with pytest.raises(SettingsError, match="one base, one LoRA and one clip_skip"):
        workflow([*some[:1], *panels(base)[1:]])


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("my base", "DiffusersLoader"),
        ("sdxl", "DiffusersLoader"),
        ("kolors", "MZ_KolorsUNETLoaderV2"),
    ],
)
def test_comfy_loads_a_base_that_is_a_folder_as_a_folder(base, kind):
    some = [
        changed(panel, base={"name": "mine", "layout": "diffusers"})
        for panel in panels(base if base in FAMILIES else "sd15", 0.5)
    ]
    made = workflow(some)
    check_api(made["api"])
    check_ui(made["ui"])
    assert made["api"]["1"]["class_type"] == kind
    if kind == "DiffusersLoader":
        assert (
            made["api"]["1"]["inputs"] == {"model_path": "mine"}
            and "models/diffusers" in made["api"]["1"]["_meta"]["note"]
        )
        assert workflow(some, models={"model_path": "other"})["api"]["1"]["inputs"] == {
            "model_path": "other"
        }
    for form in made.values():
        assert workflow(**reading.read(form))["api"]["1"] == made["api"]["1"]
    assert workflow([changed(panel, base={"name": "mine"}) for panel in panels("sd15")])["api"][
        "1"
    ]["inputs"] == {"ckpt_name": "mine.safetensors"}


@pytest.mark.slow
def test_comfy_tells_a_folder_of_ones_own_from_the_hubs(hub, make_settings, tmp_path):
    folder = hub("sd15").folder
    own, hubs = (
        render(
            Story(["a cat"]), make_settings(base=base, num_inference_steps=2), None, tmp_path / name
        )
        for base, name in ((str(folder), "own"), ("sd15", "hubs"))
    )
    assert (
        workflow(own)["api"]["1"]["inputs"] == {"model_path": folder.name}
        and workflow(hubs)["api"]["1"]["class_type"] == "CheckpointLoaderSimple"
    )


def test_comfy_takes_the_strength_that_the_pictures_were_drawn_with():
    some = [changed(panel, lora={"strength": 0.7}) for panel in panels("sdxl")]
    made = workflow(some)
    assert made["api"]["2"]["inputs"]["strength_model"] == 0.7
    assert workflow(some, strength=0.5)["api"]["2"]["inputs"]["strength_model"] == 0.5
    for form in made.values():
        assert workflow(**read_again(form)) == made


def test_comfy_refuses_panels_of_two_loras():
    one, other = panels("sdxl", count=1), panels("sdxl", lora="other", count=1)
    with pytest.raises(SettingsError, match="one base, one LoRA and one clip_skip"):
        workflow(one + other)


def test_comfy_arguments_are_checked():
    with pytest.raises(SettingsError, match="at most 64 panels, not 65"):
        workflow(panels("sdxl", count=65))
    with pytest.raises(SettingsError, match="one base, one LoRA and one clip_skip"):
        workflow([*panels("sdxl"), *panels("kolors")])
    with pytest.raises(SettingsError, match="strength=30"):
        workflow(panels("sdxl"), strength=30)


@pytest.mark.slow
def test_comfy_graph_is_in_each_picture_and_tells_no_secrets(
    hub, make_settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    settings = make_settings(base="sd15", num_inference_steps=2, guidance_end=0.5)
    state = {}
    for name, layer in loading.skeleton(hub("sd15"), "unet").named_modules():
        if name.endswith("to_q"):
            state |= {
                f"{name}.lora_A.weight": layer.weight.new_ones(
                    (1, layer.in_features), device="cpu"
                ),
                f"{name}.lora_B.weight": layer.weight.new_ones(
                    (layer.out_features, 1), device="cpu"
                ),
            }
    lora.save(tmp_path / "lora.safetensors", state, 1, {})
    story = Story([Panel("二次元，女孩"), "a boy"], negative_prompt="模糊")
    pictures = render(story, settings, tmp_path / "lora.safetensors")
    for path, panel in zip(pictures.paths, pictures.panels, strict=True):
        with Image.open(path) as image:
            text = dict(image.text)
        made = workflow([panel])
        assert (
            json.loads(text["prompt"]) == made["api"]
            and json.loads(text["workflow"]) == made["ui"]
            and text["prompt"].isascii()
        )
        assert b"tEXtprompt\0" in path.read_bytes() and b"tEXtworkflow\0" in path.read_bytes()
        assert (
            workflow(**reading.read(path)) == made
            and reading.read_story(path)[0].prompt == panel.prompt
        )
        for secret in (str(tmp_path), str(Path.home()), getpass.getuser(), "hf_abcdefghijklmnop"):
            assert not any(
                re.search(rf"(?<![a-z]){re.escape(secret)}(?![a-z])", value)
                for value in text.values()
            )
    before = pictures.grid.stat().st_mtime_ns
    path = save_workflow(pictures)
    assert (
        reading.read(path) == reading.read(path.with_name("workflow_api.json"))
        and len(reading.read(path)["pictures"]) == 2
    )
    render(story, settings, tmp_path / "lora.safetensors")
    assert pictures.grid.stat().st_mtime_ns == before and path.is_file()  # nothing drawn anew
