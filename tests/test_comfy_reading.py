import json
import os
from pathlib import Path

import pytest
from PIL import Image

from storyboard import workflow
from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import reading
from tests.comfy_graphs import panels

VERSION_1 = Path(__file__).parent / "version_1"


def test_comfy_refuses_two_samplers_of_an_earlier_storyboard_by_name():
    api = workflow(panels("sd15", count=1))["api"]
    sampler = api["13"]["inputs"]
    common = {
        name: sampler[name]
        for name in ("model", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    }
    for number, add, source, start, end in (
        ("13", "enable", "12", 0, 15),
        ("14", "disable", "13", 15, 10000),
    ):
        api[number] = {
            "class_type": "KSamplerAdvanced",
            "inputs": common
            | {
                "add_noise": add,
                "noise_seed": 7,
                "latent_image": [source, 0],
                "start_at_step": start,
                "end_at_step": end,
                "return_with_leftover_noise": "disable",
            },
        }
    with pytest.raises(SettingsError, match="two samplers a panel.*save_workflow"):
        reading.read(api)


def spoilt(change, form="api"):
    made = workflow(panels("sd15"))[form]
    change(made)
    return made


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"nodes": []},
        {"1": {"class_type": "Other", "inputs": {}}},
        {"nodes": [{"type": "Reroute"}], "links": []},
        spoilt(lambda api: api["13"]["inputs"].update(sampler_name="euler")),
        spoilt(lambda api: api.pop("15")),
        spoilt(lambda api: api["13"]["inputs"].update(steps="many")),
        spoilt(
            lambda api: api.update(
                {"99": {"class_type": "PreviewImage", "inputs": {"images": ["15", 0]}}}
            )
        ),
        spoilt(lambda ui: ui["links"].pop(), "ui"),
    ],
)
def test_comfy_graph_that_is_not_ours_is_refused(graph):
    with pytest.raises(SettingsError, match="The graph is no graph that Storyboard made"):
        reading.read(graph)


def test_comfy_files_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "deep.json").write_text('{"a":' * 300_000)
    (tmp_path / "digits.json").write_text('{"1": {"class_type": ' + "9" * 5000 + "}}")
    (tmp_path / "latin.json").write_bytes(b"{\xff")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["broken.json", "list.json", "plain.png", "text.png", "none.json", "deep.json"]
    names += ["digits.json", "latin.json", "folder.json", "pipe.json", "pipe.png"]
    for name in names:
        with pytest.raises(SettingsError, match=f"{name} is no graph that Storyboard made"):
            reading.read(tmp_path / name)


def test_comfy_edits_come_back():
    ui = workflow(panels("kolors"))["ui"]
    node = next(node for node in ui["nodes"] if node["type"] == "MZ_ChatGLM3_V2")
    node["widgets_values"], node["pos"] = ["a girl"], [5, 5]
    assert reading.read_story(ui)[0].prompt == "a girl"


@pytest.mark.parametrize(
    ("name", "base"), [("workflow-sdxl.json", "sdxl"), ("workflow_api-kolors.json", "kolors")]
)
def test_comfy_graph_of_the_version_before_is_read(name, base):
    arguments = reading.read(VERSION_1 / name)
    panels_ = arguments["pictures"]
    controls = [panel.reference and panel.reference.control for panel in panels_]
    assert controls == [None, "edges", "image", "depth", "image", "pose", "colour", None]
    assert (
        {panel.base.name for panel in panels_} == {panel.base.family for panel in panels_} == {base}
    )
    assert {panel.guidance_end for panel in panels_} == {0.6}
    again = json.loads(json.dumps(workflow(**arguments)))
    content = json.loads((VERSION_1 / name).read_text(encoding="utf-8"))
    graph = again["ui" if "nodes" in content else "api"]
    assert reading.read(graph) == arguments


@pytest.mark.parametrize(
    ("number", "name", "value", "message"),
    [
        ("2", "strength_model", 30, "The graph: strength=30.* must be a number from -20 to 20"),
        ("13", "seed", 2**63, "seed"),
    ],
)
def test_comfy_value_that_is_out_of_range_is_named(number, name, value, message):
    graph = workflow(panels("sd15"))["api"]
    graph[number]["inputs"][name] = value
    with pytest.raises(SettingsError, match=message):
        reading.read_story(graph)


def test_comfy_does_not_hide_an_error_of_ours(monkeypatch):
    def broken(*_, **__):
        raise KeyError("ours")

    graph = workflow(panels("sd15"))["api"]
    monkeypatch.setattr(reading, "workflow", broken)
    with pytest.raises(KeyError, match="ours"):
        reading.read(graph)
