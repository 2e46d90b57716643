"""A graph in the form that ComfyUI's page opens: nodes with places and sizes on a canvas.

Version 0.4 of the form (https://docs.comfy.org/specs/workflow_json_0.4).
"""

from collections.abc import Iterable

from storyboard.exporting.comfyui.nodes import is_prompt, links, node_type, widgets
from storyboard.exporting.comfyui.numbers import PANEL, panel_and_part
from storyboard.models.families import NodeType
from storyboard.other_tools import comfyui_syntax as syntax

# The page keeps a second value after these: what to do with a seed after a run, the upload button.
SECOND_VALUES = {"seed": "fixed", "noise_seed": "fixed", "image": "image"}
WIDTH, HEIGHT, GAP = 340, 360, 60  # pixels
SLOT, WIDGET, MARGIN = 20, 24, 14  # pixels a link, a value, the rest (litegraph, computeSize)
NOTE = "Note"  # a node of the page alone


def to_ui(api: dict) -> dict:
    """API form -> the page's form: a row for what all panels share, one for each panel."""
    positions, edges = _positions(map(int, api)), _edges(api)
    numbers = sorted(api, key=int)
    nodes = [
        _ui_node(int(number), order, api[number], positions[int(number)], edges)
        for order, number in enumerate(numbers)
    ]
    note_id = int(numbers[-1]) + 1
    nodes.append(_note(note_id, len(nodes), api["1"]["_meta"]["note"]))
    return {
        "last_node_id": note_id,
        "last_link_id": len(edges),
        "nodes": nodes,
        "links": edges,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def from_ui(ui: dict) -> dict:
    """The page's form -> API form, as ComfyUI's own "Export (API)" does.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: A node, link or value is not there, not
            known or of another type.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    api, note = {}, None
    for each in ui["nodes"]:
        if each["type"] == NOTE:
            note = each["widgets_values"][0]
            continue
        kind = node_type(each["type"])
        inputs = _values(each["type"], kind, each["widgets_values"])
        inputs |= {
            entry["name"]: sources[entry["link"]]
            for entry in each["inputs"]
            if entry["name"] in links(kind)
        }
        entry = {
            "class_type": each["type"],
            "inputs": {name: inputs[name] for name in kind.inputs},
        }
        if "title" in each:
            entry["_meta"] = {"title": each["title"]}
        api[str(each["id"])] = entry
    if note is not None:
        api["1"]["_meta"]["note"] = note
    return api


def _values(class_type: str, kind: NodeType, widgets_values: list) -> dict:
    """What is typed in, by name, from the values that the page keeps."""
    values, rest = {}, list(widgets_values)
    for name in widgets(kind):
        value = rest.pop(0)
        values[name] = syntax.from_canvas(value) if is_prompt(class_type, name) else value
        if name in SECOND_VALUES:
            rest.pop(0)
    return values


def _edges(api: dict) -> list[list]:
    """Links as the page has them: number, source and its output, target and its input, type."""
    edges = []
    for number, each in api.items():
        kind = node_type(each["class_type"])
        for slot, name in enumerate(links(kind)):
            source, output = each["inputs"][name]
            edges.append(
                [len(edges) + 1, int(source), output, int(number), slot, kind.inputs[name]]
            )
    return edges


def _ui_node(number: int, order: int, each: dict, position: list[int], edges: list[list]) -> dict:
    class_type = each["class_type"]
    kind = node_type(class_type)
    into = {slot: link for link, _, _, target, slot, _ in edges if target == number}
    out = [
        [link for link, source, output, *_ in edges if (source, output) == (number, slot)]
        for slot in range(len(kind.outputs))
    ]
    entry = {
        "id": number,
        "type": class_type,
        "pos": position,
        "size": [WIDTH, _height(kind)],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [
            {"name": name, "type": kind.inputs[name], "link": into[slot]}
            for slot, name in enumerate(links(kind))
        ],
        "outputs": [
            {"name": name, "type": name, "links": out[slot], "slot_index": slot}
            for slot, name in enumerate(kind.outputs)
        ],
        "properties": {"Node name for S&R": class_type} | dict(kind.pack),
        "widgets_values": _shown_values(class_type, kind, each["inputs"]),
    }
    return entry | ({"title": each["_meta"]["title"]} if "_meta" in each else {})


def _shown_values(class_type: str, kind: NodeType, inputs: dict) -> list:
    """What is typed in, as the page keeps it."""
    values = []
    for name in widgets(kind):
        value = inputs[name]
        values.append(syntax.to_canvas(value) if is_prompt(class_type, name) else value)
        if name in SECOND_VALUES:
            values.append(SECOND_VALUES[name])
    return values


def _note(number: int, order: int, text: str) -> dict:
    return {
        "id": number,
        "type": NOTE,
        "pos": [0, 0],
        "size": [WIDTH, HEIGHT - 2 * GAP],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"text": ""},
        "widgets_values": [text],
    }


def _positions(numbers: Iterable[int]) -> dict[int, list[int]]:
    """Left and top of each node, pixels; further nodes of a row come last."""
    positions, last_columns = {}, {}
    for number in sorted(numbers):
        row, column = panel_and_part(number)
        if column >= PANEL:
            column = last_columns[row] = last_columns.get(row, PANEL - 1) + 1
        positions[number] = [column * (WIDTH + GAP), row * (HEIGHT + GAP)]
    return positions


def _height(kind: NodeType) -> int:
    """Pixels that a node takes on the canvas, at least."""
    values = len(widgets(kind)) + len(SECOND_VALUES.keys() & kind.inputs.keys())
    rows = max(len(links(kind)), len(kind.outputs))
    return max(HEIGHT - 2 * GAP, SLOT * rows + WIDGET * values + MARGIN)
