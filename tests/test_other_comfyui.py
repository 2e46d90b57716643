"""Pictures of ComfyUI: from the saved picture back along its links to sampler, seed and words."""

import json

import pytest

from storyboard import Story
from storyboard.errors import SettingsError
from tests.other_pictures import graph, node, png, sampler


def read(tmp_path, content, name="a.png", size=(8, 8)):
    path = png(tmp_path / name, size=size, prompt=json.dumps(content))
    story = Story.from_png(path)
    return story[0], story.settings[0]


def encoded(text, kind="CLIPTextEncode", **more):
    return node(kind, text=text, clip=["4", 1], **more)


def combined(kind, one="10", two="11"):
    return node(kind, conditioning_1=[one, 0], conditioning_2=[two, 0])


WORDS = {"n10": encoded("a cat"), "n11": encoded("a dog")}


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({"n6": combined("ConditioningCombine"), **WORDS}, "a cat, a dog"),
        (
            {
                "n6": node(
                    "ConditioningConcat", conditioning_to=["10", 0], conditioning_from=["11", 0]
                )
            }
            | WORDS,
            "a cat, a dog",
        ),
        (
            {"n6": combined("ConditioningCombine", "12", "11"), **WORDS}
            | {"n12": node("ConditioningSetArea", conditioning=["10", 0], width=64, strength=1.0)},
            "a dog, a cat",
        ),
        ({"n6": node("Reroute", **{"": ["10", 0]}), **WORDS}, "a cat"),
        ({"n6": encoded(["10", 0]), "n10": node("PrimitiveNode", value="a cat")}, "a cat"),
        (
            {"n6": encoded(["10", 0]), "n10": node("PrimitiveStringMultiline", value="a cat")},
            "a cat",
        ),
        (
            {
                "n6": encoded(["12", 0]),
                "n10": node("Text Multiline", text="a cat"),
                "n11": node("String Literal", string="a dog"),
                "n12": node(
                    "StringConcatenate", string_a=["10", 0], string_b=["11", 0], delimiter=" and "
                ),
            },
            "a cat and a dog",
        ),
        (
            {
                "n6": encoded(["12", 0]),
                "n10": node("CR Text", text="a red cat"),
                "n12": node("StringReplace", string=["10", 0], find="red", replace="blue"),
            },
            "a blue cat",
        ),
        (
            {"n6": node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a cat", clip=["4", 1])},
            "a cat",
        ),
        (
            {"n6": node("CLIPTextEncodeFlux", clip_l="a", t5xxl="a cat on a hill", guidance=3.5)},
            "a cat on a hill",
        ),
        ({"n6": node("smZ CLIPTextEncode", text="a cat", parser="A1111")}, "a cat"),
        (
            {"n6": node("ImpactWildcardEncode", wildcard_text="__x__", populated_text="a cat")},
            "a cat",
        ),
        ({"n6": node("FluxGuidance", conditioning=["10", 0], guidance=3.5), **WORDS}, "a cat"),
        (
            {
                "n3": sampler(positive="12", negative="12"),
                "n6": encoded("a cat"),
                "n12": node(
                    "ControlNetApplyAdvanced",
                    positive=["6", 0],
                    negative=["7", 0],
                    control_net=["13", 0],
                    image=["14", 0],
                ),
            },
            "a cat",
        ),
        ({"n6": node("Kolors", text="a cat", chatglm3_model=["4", 1])}, "a cat"),
        ({"n6": node("Reroute", **{"": ["57:3", 0]}), "57:3": encoded("a cat")}, "a cat"),
        (
            {
                "n6": node("Switch any", select=2, input1=["10", 0], input2=["11", 0]),
                **WORDS,
            },
            "a dog",
        ),
    ],
)
def test_words_behind_a_conditioning(tmp_path, changes, prompt):
    panel, settings = read(tmp_path, graph(**changes))
    assert (panel.prompt, panel.seed, settings["tool"]) == (prompt, 7, "ComfyUI")
    assert settings["steps"] == 20 and settings["sampler_name"] == "euler"


def test_a_node_that_gives_both_prompts(tmp_path):
    styler = node("SDXLPromptStyler", text_positive="a cat", text_negative="fog", style="ink")
    nodes = graph(n10=styler, n6=encoded(["10", 0]), n7=encoded(["10", 1]))
    panel, settings = read(tmp_path, nodes)
    assert (panel.prompt, panel.negative_prompt) == ("a cat", "fog")
    assert any("SDXLPromptStyler" in note for note in settings["notes"])


def test_a_sampler_of_faces_is_not_the_pictures(tmp_path):
    more = {"seed": 5, "steps": 3, "sampler_name": "euler", "negative": ["7", 0]}
    nodes = graph(
        n9=node("SaveImage", filename_prefix="ComfyUI", images=["12", 0]),
        n12=node("FaceDetailer", image=["8", 0], positive=["13", 0], **more),
        n13=encoded("a face"),
    )
    panel, settings = read(tmp_path, nodes)
    assert (panel.prompt, panel.seed) == ("a cat, (night:1.2)", 7)
    assert settings["other samplers"][0]["prompt"] == "a face"


def test_positive_and_negative_of_one_node_are_told_apart(tmp_path):
    nodes = graph(n3=sampler(positive="12", negative="12"))
    nodes["3"]["inputs"]["negative"] = ["12", 1]
    nodes["12"] = node(
        "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1.0
    )
    panel, settings = read(tmp_path, nodes)
    assert (panel.prompt, panel.negative_prompt) == ("a cat, (night:1.2)", "blurry")
    assert any("ControlNetApplyAdvanced" in note for note in settings["notes"])


def custom(guider):
    """The nodes of custom sampling around ``guider``."""
    return graph(
        n3=node(
            "SamplerCustomAdvanced",
            noise=["20", 0],
            guider=["21", 0],
            sampler=["22", 0],
            sigmas=["23", 0],
            latent_image=["5", 0],
        ),
        n20=node("RandomNoise", noise_seed=2**40),
        n21=guider,
        n22=node("KSamplerSelect", sampler_name="dpmpp_2m"),
        n23=node("BasicScheduler", model=["4", 0], scheduler="simple", steps=12, denoise=1.0),
    )


@pytest.mark.parametrize(
    ("guider", "negative"),
    [
        (node("BasicGuider", model=["4", 0], conditioning=["6", 0]), ""),
        (
            node("CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=4.0),
            "blurry",
        ),
        (node("DualCFGGuider", cond1=["6", 0], cond2=["7", 0], negative=["7", 0]), "blurry"),
    ],
)
def test_custom_sampling(tmp_path, guider, negative):
    panel, settings = read(tmp_path, custom(guider))
    assert (panel.prompt, panel.negative_prompt) == ("a cat, (night:1.2)", negative)
    assert panel.seed == 2**40 and settings["steps"] == 12
    assert settings["sampler_name"] == "dpmpp_2m" and settings["scheduler"] == "simple"


def test_sampler_custom_has_its_own_seed(tmp_path):
    more = {"cfg": 1.0, "sampler": ["22", 0], "sigmas": ["23", 0], "latent_image": ["5", 0]}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    nodes = graph(
        n3=node("SamplerCustom", add_noise=True, noise_seed=5, **links, **more),
        n22=node("SamplerEulerAncestral", eta=1.0),
        n23=node("SDTurboScheduler", steps=1, model=["4", 0]),
    )
    panel, settings = read(tmp_path, nodes)
    assert panel.seed == 5 and settings["steps"] == 1
    assert settings["sampler_name"] == "SamplerEulerAncestral"


def advanced(seed, noise, latent):
    more = {"noise_seed": seed, "add_noise": noise, "start_at_step": 0, "end_at_step": 20}
    each = sampler(latent=latent, **more)
    del each["inputs"]["seed"]
    return each | {"class_type": "KSamplerAdvanced"}


def test_base_and_refiner_are_one_pass(tmp_path):
    nodes = graph(n3=advanced(0, "disable", "13"), n13=advanced(["14", 0], "enable", "5"))
    nodes["14"] = node("PrimitiveNode", value=99)
    panel, settings = read(tmp_path, nodes)
    assert panel.seed == 99 and len(settings["other samplers"]) == 1


def test_two_passes_give_the_one_that_saves_and_name_the_other(tmp_path):
    nodes = graph(
        n3=sampler(seed=2, positive="10", latent="12", steps=8, denoise=0.5),
        n10=encoded("a big cat"),
        n12=node("LatentUpscale", samples=["13", 0], width=1024, height=1024),
        n13=sampler(seed=1),
    )
    panel, settings = read(tmp_path, nodes)
    assert (panel.prompt, panel.seed, settings["steps"]) == ("a big cat", 2, 8)
    other = settings["other samplers"][0]
    assert (other["prompt"], other["seed"], other["steps"]) == ("a cat, (night:1.2)", 1, 20)


def two_outputs():
    nodes = graph(n13=sampler(seed=1, positive="10"), n10=encoded("a dog"))
    nodes["18"] = node("VAEDecode", samples=["13", 0], vae=["4", 2])
    nodes["19"] = node("SaveImage", filename_prefix="dogs/dog", images=["18", 0])
    nodes["13"]["inputs"]["latent_image"] = ["15", 0]
    nodes["15"] = node("EmptyLatentImage", width=64, height=32, batch_size=1)
    return nodes


@pytest.mark.parametrize(
    ("name", "size", "seed"),
    [("dog_00001_.png", (8, 8), 1), ("ComfyUI_00001_.png", (8, 8), 7), ("x.png", (64, 32), 1)],
)
def test_one_of_several_pictures_is_known_by_its_name_or_size(tmp_path, name, size, seed):
    panel, settings = read(tmp_path, two_outputs(), name, size)
    assert panel.seed == seed
    assert not any("saves 2 pictures" in note for note in settings.get("notes", []))


def test_one_of_several_pictures_that_nothing_tells_apart_is_said(tmp_path):
    _, settings = read(tmp_path, two_outputs())
    assert any("saves 2 pictures" in note for note in settings["notes"])


def test_what_had_a_part_in_it_is_said(tmp_path):
    nodes = graph(
        n4=node("LoraLoader", model=["14", 0], clip=["14", 1], lora_name="ink.safetensors"),
        n14=node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        n5=node("VAEEncode", pixels=["15", 0], vae=["14", 2]),
        n15=node("LoadImage", image="sketch.png"),
        n6=encoded("a cat, embedding:easy, (embedding:bad.pt:1.2)"),
    )
    panel, settings = read(tmp_path, nodes)
    said = " ".join(settings["notes"])
    assert panel.prompt == "a cat, ," and settings["model"] == "sd15.safetensors"
    assert all(
        word in said for word in ("ink.safetensors", "a picture was loaded", "embedding:easy")
    )


CYCLE = graph(n6=node("Reroute", **{"": ["10", 0]}), n10=node("Reroute", **{"": ["6", 0]}))
CHAIN = graph(n6=node("Reroute", **{"": ["100", 0]})) | {
    str(number): node("Reroute", **{"": [str(number + 1), 0]}) for number in range(100, 5000)
}
DOUBLING = graph(n6=encoded(["149", 0]), n100=node("Text", text="a cat ")) | {
    str(number): node(
        "StringConcatenate", string_a=[str(number - 1), 0], string_b=[str(number - 1), 0]
    )
    for number in range(101, 150)
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CYCLE, "no prompt in words"),
        (CHAIN, "more than 100 nodes one behind another"),
        (DOUBLING, "a text of more than 1,000,000 characters"),
        (graph(n6=encoded(["10", 0]), n10=node("OllamaGenerate", prompt="x")), "OllamaGenerate"),
        (graph(n6=encoded(["99", 0])), "no prompt in words"),
        (graph(n6=encoded("")), "no prompt in words"),
        (graph(n6=node("ConditioningZeroOut", conditioning=["7", 0])), "no prompt in words"),
        (graph(n3=sampler(seed="9" * 5000)), "seed of node 3 .KSampler. .* more than 20 digits"),
        (graph(n3=sampler(seed={"a": 1})), "seed of node 3 .KSampler. .* a JSON object"),
        ({"9": node("SaveImage", images=["8", 0]), "8": node("LoadImage")}, "no sampler"),
        ({"1": {"class_type": "KSampler"}}, "no node with a class_type and inputs"),
        ({"1": None, "2": [1]}, "no node with a class_type and inputs"),
        ({}, "no node"),
        ({str(number): node("A") for number in range(10_001)}, "10,001 nodes"),
    ],
)
def test_a_graph_that_names_no_prompt_says_why(tmp_path, content, reason):
    with pytest.raises(SettingsError, match=rf"a.png: .*{reason}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
