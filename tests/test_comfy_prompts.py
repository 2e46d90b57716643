import pytest

from storyboard import prompts, workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import reading
from storyboard.exporting.comfyui.graph import png_chunks
from tests.comfy_graphs import changed, drawn, panels, read_again
from tests.comfy_rules import check_api, check_ui, joined, texts, weighed


def test_comfy_gives_sdxl_zeros_for_no_negative_prompt_as_diffusers_does():
    for base, kind in (
        ("sdxl", "ConditioningZeroOut"),
        ("sd15", "CLIPTextEncode"),
        ("kolors", "MZ_ChatGLM3_V2"),
    ):
        api = workflow(panels(base, count=2))["api"]
        assert api["11"]["class_type"] == kind and api["21"]["inputs"]["text"] == "模糊 1"
    assert workflow(panels("sdxl"))["api"]["11"]["inputs"] == {"conditioning": ["10", 0]}


def test_comfy_gives_sdxl_zeros_where_brackets_hold_no_word():
    api = workflow([changed(panels("sdxl")[0], negative_prompt="()")])["api"]
    assert api["11"]["class_type"] == "ConditioningZeroOut"


ODD = [
    "a {red|blue} hat \\(new\\)",
    "http://x.y/z, a cat",
    "a /* cat */ dog",
    "///",
    "a//b\nc",
    "\\\\{a\\\\}",
    "a | b } {",
    "\\\\\\\\{",
    "path\\\\",
    "a (cat:1.2) [dog]",
    "\\[a\\] b",
    "((a) b:1.3)",
    "(a (b:1.5) c:0.5)",
    "a\\\\(b:1.2)",
    "(a\\\\:1.2) \\(b\\)",
    "12:30, (3:4:1.1)",
    "a embedding:bad",
    "(x:0)",
    "[[a]]",
]


@pytest.mark.parametrize("form", ["api", "ui"])
@pytest.mark.parametrize("prompt", ODD)
def test_comfy_reads_the_words_and_weights_that_storyboard_reads(prompt, form):
    for base in ("sd15", "sdxl"):
        made = workflow([changed(panels(base)[0], prompt=prompt, negative_prompt=f"no {prompt}")])
        positive, negative = texts(made, form)
        assert joined(weighed(positive)) == joined(prompts.parse(prompt)) and joined(
            weighed(negative)
        ) == joined(prompts.parse(f"no {prompt}"))
        assert "embedding:" not in positive
        again = reading.read(made[form])["pictures"][0]
        assert joined(prompts.parse(again.prompt)) == joined(prompts.parse(prompt))
        assert joined(weighed(texts(workflow([again]), form)[0])) == joined(prompts.parse(prompt))


@pytest.mark.parametrize("form", ["api", "ui"])
def test_comfy_gives_kolors_the_words_alone(form):
    """The pack knows neither weights nor escapes; the canvas treats its texts as any others."""
    panel = changed(
        panels("kolors")[0],
        prompt="a (red:1.3) \\(cat\\), http://x.y [z]",
        negative_prompt="/* \\[a\\] */",
    )
    made = workflow([panel])
    assert texts(made, form) == ["a red (cat), http://x.y z", "/* [a] */"]
    assert reading.read(made[form])["pictures"][0].prompt == "a red \\(cat\\), http://x.y z"


def test_comfy_texts_edited_there_come_back_as_comfy_reads_them():
    graph = workflow(panels("sd15"))["api"]
    graph["10"]["inputs"]["text"] = "((red)) [cat] (a (b:1.5):0.5) c\\d"
    read = reading.read(graph)["pictures"][0].prompt
    assert prompts.parse(read) == [
        ("red ", 1.21),
        ("[cat] ", 1),
        ("a ", 0.5),
        ("b ", 1.5),
        ("c\\d", 1),
    ]


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_comfy_joins_the_chunks_that_clip_read(base):
    """ComfyUI cuts after 75 tokens; a node a chunk makes it our cut, pooled that of the first."""
    chunks = ("a cat, ", "a (dog:1.2),", " [a] http://x")
    panel = changed(panels(base)[0], prompt="".join(chunks), negative_prompt="".join(chunks[:2]))
    panel = drawn(panel, 231, {"prompt": chunks, "negative_prompt": chunks[:2]})
    made = workflow([panel, panels(base)[1]])
    check_api(made["api"])
    check_ui(made["ui"])

    def encoded(source):
        node = made["api"][source[0]]
        if node["class_type"] == "ConditioningConcat":
            to, from_ = (node["inputs"][f"conditioning_{end}"] for end in ("to", "from"))
            return encoded(to) + encoded(from_)
        return [node["inputs"]["text"]]

    sampler = made["api"]["13"]["inputs"]
    assert encoded(sampler["positive"]) == [
        "a cat, ",
        "a (dog:1.2),",
        " (a:0.909091) http://x",
    ] and encoded(sampler["negative"]) == ["a cat, ", "a (dog:1.2),"]
    assert made["api"]["23"]["inputs"]["positive"] == ["20", 0]
    assert "longer than CLIP" not in made["api"]["1"]["_meta"]["note"]
    for form in made.values():
        assert workflow(**read_again(form)) == made
        assert prompts.parse(reading.read_story(form)[0].prompt) == prompts.parse(panel.prompt)


LONG = "longer than CLIP reads at once"


@pytest.mark.parametrize(
    ("text_length", "chunks"),
    [(154, None), (154, {"prompt": ()}), (154, {"negative_prompt": ()})],
)
def test_comfy_says_where_a_long_prompt_is_cut_elsewhere(text_length, chunks):
    made = workflow([drawn(panels("sdxl")[0], text_length, chunks)])
    for graph in (made, workflow(**reading.read(made["ui"]))):
        assert LONG in graph["api"]["1"]["_meta"]["note"]


@pytest.mark.parametrize(
    ("base", "text_length", "chunks"),
    [("sdxl", 77, None), ("sdxl", 154, {}), ("kolors", 256, None)],
)
def test_comfy_says_nothing_where_no_prompt_is_cut_elsewhere(base, text_length, chunks):
    graph = workflow([drawn(panels(base)[0], text_length, chunks)])
    assert LONG not in graph["api"]["1"]["_meta"]["note"]


def test_comfy_keeps_the_chunks_of_one_panel_where_another_is_cut_elsewhere():
    one, other = panels("sdxl", count=2)
    one = drawn(changed(one, prompt="a cat, a dog"), 154, {"prompt": ("a cat, ", "a dog")})
    made = workflow([one, drawn(other, 154, {"prompt": ()})])
    for form in made.values():
        assert workflow(**read_again(form)) == made


def test_comfy_braces_of_a_kolors_prompt_are_refused_and_its_picture_has_no_graph():
    """The pack's text node chooses at random in Python, where no escape holds."""
    panel = changed(panels("kolors")[0], prompt="{红|蓝}色")
    with pytest.raises(SettingsError, match="Panel 2 has a pair of braces.*take them out"):
        workflow([panels("kolors")[0], panel])
    for fields in ({"negative_prompt": "{模糊}"}, {"prompt": "{{红}"}):
        with pytest.raises(SettingsError, match="Panel 1 has a pair of braces"):
            workflow([changed(panels("kolors")[0], **fields)])
    # no pair: each text has a node of its own
    workflow([changed(panels("kolors")[0], prompt="{红", negative_prompt="模糊}")])
    assert png_chunks(panel) == {}


def test_comfy_braces_edited_into_a_kolors_graph_are_named():
    graph = workflow(panels("kolors"))["api"]
    graph["20"]["inputs"]["text"] = "{红|蓝}色"
    with pytest.raises(
        SettingsError, match="^The graph: panel 2 has a pair of braces.*take them out"
    ):
        reading.read(graph)
