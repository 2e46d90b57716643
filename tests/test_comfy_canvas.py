import itertools

import pytest

from storyboard import workflow
from storyboard.models import bases
from storyboard.rendering import sampling
from tests.comfy_graphs import changed, drawn, follow, note, panels


def test_comfy_canvas_leaves_room_for_every_node():
    """By litegraph's computeSize: 20 pixels a link, 24 a value, 14 for the rest.

    A title of 30 stands above, and a node grows to what it needs.
    """
    some = panels("sdxl", 0.5)
    some[1] = follow(some[1], 2, "image", strength=0.4)
    some[2] = drawn(some[2], 231, {"prompt": ("a, ", "b, ", "c"), "negative_prompt": ("d", "e")})
    boxes = []
    for node in workflow(some)["ui"]["nodes"]:
        rows = max(len(node["inputs"]), len(node["outputs"]))
        height = max(node["size"][1], 20 * rows + 24 * len(node["widgets_values"]) + 14)
        (left, top), width = node["pos"], node["size"][0]
        boxes.append((left, top - 30, left + width, top + height))
    for one, other in itertools.combinations(boxes, 2):
        beside = one[2] <= other[0] or other[2] <= one[0]
        assert beside or one[3] <= other[1] or other[3] <= one[1]


def test_comfy_notes_say_what_is_needed():
    kolors, mini, sdxl = (note(workflow(panels(base))) for base in ("kolors", "mini", "sdxl"))
    for needed in ("ComfyUI-Kolors-MZ", "models/loras", "transformers<5"):
        assert needed in kolors
    assert "no ComfyUI node loads" in mini
    assert "Kolors-MZ" not in sdxl and "transformers" not in sdxl


@pytest.mark.parametrize("steps", [8, 25])
def test_comfy_notes_say_which_ends_come_late_for_kolors(steps):
    """ComfyUI names timesteps up to 999, and Kolors begins at 1,100."""
    sampler = sampling.scheduler(bases.get("kolors"))
    sampler.set_timesteps(steps)
    beyond = int((sampler.timesteps > 998).sum())

    def note_of(base, end, kind):
        panel = changed(
            panels(base, guidance_end=end if kind == "guidance" else 1.0)[0], steps=steps
        )
        return note(workflow([follow(panel, 1, "edges", end=end) if kind == "edges" else panel]))

    for kind in ("guidance", "edges"):
        for step in range(1, steps + 1):
            late = f"after step {beyond}." in note_of("kolors", step / steps, kind)
            assert late == (step < beyond)
        assert "first steps of" not in note_of("sdxl", 1 / steps, kind)


@pytest.mark.parametrize(
    ("words", "base", "fields", "warns"),
    [
        ("plain words", "kolors", {"prompt": "a (red:1.3) cat"}, True),
        ("plain words", "kolors", {"negative_prompt": "[text]"}, True),
        ("普通文字", "kolors", {"prompt": "\\\\(red)"}, True),  # a backslash, then a weight
        ("plain words", "kolors", {"prompt": "a \\(red\\) cat"}, False),
        ("plain words", "sdxl", {"prompt": "a (red:1.3) cat"}, False),
        ("weigh less than 1", "sdxl", {"prompt": "a [red] cat"}, True),
        ("weigh less than 1", "sd15", {"negative_prompt": "(red:0.5)"}, True),
        ("weigh less than 1", "sdxl", {"prompt": "a (red:1.3) cat"}, False),
        ("weigh less than 1", "kolors", {"prompt": "[red]"}, False),
        ("weigh less than 1", "sdxl", {"prompt": "\\[red\\]"}, False),
        ("2^53 loses digits", "sdxl", {"seed": 2**53 + 1}, True),
        ("大于 2^53", "kolors", {"seed": 2**64 - 1}, True),
        ("2^53", "sdxl", {"seed": 2**53}, False),
    ],
)
def test_comfy_notes_warn_of_what_draws_otherwise_there(words, base, fields, warns):
    assert (words in note(workflow([changed(panels(base)[0], **fields)]))) == warns


def test_comfy_nodes_name_the_pack_they_come_from():
    for node in (
        workflow(panels("kolors"))["ui"]["nodes"]
        + workflow(panels("sdxl", guidance_end=0.5))["ui"]["nodes"]
    ):
        if node["type"] != "Note":  # the page's own, no node of the server
            pack = (
                {"cnr_id": "comfyui-kolors-mz", "aux_id": "MinusZoneAI/ComfyUI-Kolors-MZ"}
                if node["type"].startswith("MZ_")
                else {"cnr_id": "comfy-core"}
            )
            assert node["properties"] == {"Node name for S&R": node["type"]} | pack
