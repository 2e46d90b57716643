"""Records: round trip, those of an earlier version, what is refused, what fingerprints cover."""

import json

import pytest
from PIL import Image

from storyboard.records import (
    BaseRecord,
    CharacterRecord,
    DrawnRecord,
    LoraRecord,
    PanelRecord,
    RecordError,
    ReferenceRecord,
    is_version_1,
)
from tests.conftest import ROOT

VERSION_1 = ROOT / "tests" / "version_1"
WHOLE = PanelRecord(
    prompt="二次元，微笑",
    negative_prompt="模糊",
    seed=2**63 - 1,
    width=64,
    height=64,
    steps=4,
    guidance_scale=2.5,
    guidance_end=0.6,
    precision="bf16",
    text_encoder_bits=8,
    text_encoder_on_cpu=False,
    clip_skip=2,
    base=BaseRecord(
        name="own",
        family="sdxl",
        pipeline="StableDiffusionXLPipeline",
        fingerprint="a" * 64,
        prediction_type="v_prediction",
        zero_terminal_snr=True,
        layout="diffusers",
    ),
    lora=LoraRecord(digest="b" * 64, tensors_digest="c" * 64, text_encoder=True),
    reference=ReferenceRecord(
        control="depth",
        strength=0.7,
        file="panel-1-reference.png",
        picture="d" * 64,
        end=0.5,
        model="someone/controlnet",
        controlnet="e" * 64,
        annotator="f" * 64,
        versions={"transformers": "5.23.0"},
    ),
    character=CharacterRecord(
        method="ip-adapter",
        strength=0.6,
        source="1" * 64,
        weights=("2" * 64, 1000),
        file="character.png",
    ),
    versions={"torch": "2.15.0+cpu"},
    drawn=DrawnRecord(
        batch=4,
        row=3,
        text_length=231,
        vae_tiling=True,
        chunks={"prompt": ("二次元，", "微笑")},
        fingerprint="3" * 64,
        file="panel-1.png",
        bytes=12345,
    ),
)


def old_panels() -> list[dict]:
    """With an IP-Adapter, a LoRA for text and chunks; then with shared attention and edges."""
    return json.loads((VERSION_1 / "story.json").read_text(encoding="utf-8"))["panels"]


def changed(record: PanelRecord, field: str, value: object) -> PanelRecord:
    """``record`` with another value of ``field``, whose name may be dotted."""
    first, _, rest = field.partition(".")
    if rest:
        value = getattr(record, first).model_copy(update={rest: value})
    return record.model_copy(update={first: value})


def test_a_record_is_the_same_after_json():
    assert PanelRecord.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE

    least = PanelRecord(
        prompt="a",
        negative_prompt="",
        seed=0,
        width=8,
        height=8,
        steps=1,
        guidance_scale=1.0,
        base=BaseRecord(name="mini", family="kolors", pipeline="KolorsPipeline"),
    )
    assert PanelRecord.from_json(least.to_json()) == least
    assert "lora" not in least.to_json() and least.to_json()["version"] == 2


def test_chunks_that_are_empty_are_not_chunks_that_are_unknown():
    for chunks in ({}, None):
        record = changed(WHOLE, "drawn.chunks", chunks)
        assert PanelRecord.from_json(record.to_json()).drawn.chunks == chunks


def test_records_of_version_1_are_read():
    records = [PanelRecord.from_json(panel) for panel in old_panels()]
    assert all(map(is_version_1, old_panels())) and not is_version_1(WHOLE.to_json())
    assert [record.base.family for record in records] == ["sd15", "sd15", "kolors", "kolors"]

    first, long, alone, edges = records
    assert first.lora.digest.startswith("5c5523e8") and first.lora.text_encoder
    assert first.lora.tensors_digest.startswith("ebf27714") and first.lora.strength == 1
    assert first.clip_skip == 2 and first.precision == "fp32" and first.versions["peft"] == "0.21.2"
    assert first.character.method == "ip-adapter" and first.character.file == "heroine.png"
    assert first.character.weights[1] == 103184 and first.character.source.startswith("e9d0f9a1")

    assert long.reference.control == "image" and long.reference.controlnet is None
    assert len(long.drawn.chunks["prompt"]) == 4 and long.drawn.text_length == 308

    assert alone.lora is None and alone.character is None and alone.reference is None
    assert (alone.drawn.file, alone.drawn.bytes, alone.drawn.row) == ("panel-1.png", 12390, 0)
    assert edges.character.source == alone.drawn.fingerprint == old_panels()[2]["fingerprint"]
    assert edges.reference.end == 0.5 and len(edges.reference.controlnet) == 64
    assert edges.text_encoder_bits is None and edges.text_encoder_on_cpu is None

    for record in records:
        assert PanelRecord.from_json(record.to_json()) == record


def test_a_record_of_version_1_from_a_png_was_not_drawn_yet():
    with Image.open(VERSION_1 / "panel-2.png") as image:
        content = json.loads(image.text["storyboard"])
    record = PanelRecord.from_json(content)
    assert record.drawn is None and record.prompt == "女孩" and record.reference.end == 0.5


def test_settings_of_a_version_1_bundle_go_with_its_panels():
    panel = old_panels()[0] | {"text_encoder_bits": 4, "text_encoder_on_cpu": None}
    assert PanelRecord.from_json(panel).text_encoder_bits == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "7"),
        ("seed", True),
        ("seed", -1),
        ("width", 64.0),
        ("guidance_scale", float("nan")),
        ("guidance_end", 1.5),
        ("precision", "fp8"),
        ("sampler", "Euler"),
        ("text_encoder_bits", 5),
        ("prompt", None),
        ("version", 3),
        ("strange", 1),
        ("base.fingerprint", "A" * 64),
        ("base.name", 3),
        ("lora.digest", "b" * 63),
        ("reference.control", "outline"),
        ("reference.file", "../panel-1-reference.png"),
        ("character.file", "other.png"),
        ("character.weights", ["2" * 64]),
        ("versions.torch", "2.15; rm"),
        ("drawn.file", "a/b.png"),
        ("drawn.text_length", 0),
        ("drawn.batch", 65),
        ("drawn.chunks", {"title": ["a"]}),
    ],
)
def test_a_wrong_field_is_refused_by_name(field, value):
    content = WHOLE.to_json()
    *path, last = field.split(".")
    part = content
    for name in path:
        part = part[name]
    part[last] = value
    with pytest.raises(RecordError, match=field) as error:
        PanelRecord.from_json(content)
    assert "\n" not in str(error.value)


def test_a_row_outside_its_batch_is_refused():
    content = WHOLE.to_json()
    content["drawn"]["row"] = 4
    with pytest.raises(RecordError, match="drawn: .*row 4 of a batch of 4"):
        PanelRecord.from_json(content)


@pytest.mark.parametrize("content", [None, [], "a", 3])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(RecordError, match="a record is a JSON object"):
        PanelRecord.from_json(content)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"heroine": 3}, "heroine"),
        ({"pipeline": "FluxPipeline"}, "base.family"),
        ({"lora": "no digest"}, "lora.digest"),
        ({"width": "64"}, "width"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_field_of_version_1_is_refused_by_name(change, field):
    with pytest.raises(RecordError, match=field):
        PanelRecord.from_json(old_panels()[0] | change)
    lacking = old_panels()[0]
    del lacking["base"]
    with pytest.raises(RecordError, match=r"base\.name: Field required"):
        PanelRecord.from_json(lacking)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "二次元"),
        ("negative_prompt", ""),
        ("seed", 1),
        ("width", 72),
        ("height", 72),
        ("steps", 5),
        ("guidance_scale", 3.0),
        ("guidance_end", 1.0),
        ("schedule_type", "Simple"),
        ("precision", "fp16"),
        ("text_encoder_bits", 4),
        ("text_encoder_bits", None),
        ("clip_skip", None),
        ("versions", {"torch": "2.16.0"}),
        ("base.fingerprint", "0" * 64),
        ("base.prediction_type", "epsilon"),
        ("base.zero_terminal_snr", False),
        ("lora", None),
        ("lora.digest", "0" * 64),
        ("lora.strength", 0.5),
        ("reference", None),
        ("reference.picture", "0" * 64),
        ("reference.strength", 1.0),
        ("reference.end", 1.0),
        ("reference.prepared", True),
        ("reference.controlnet", "0" * 64),
        ("reference.annotator", None),
        ("character", None),
        ("character.method", "shared"),
        ("character.strength", 1.0),
        ("character.source", "0" * 64),
        ("character.weights", ("0" * 64, 1000)),
    ],
)
def test_what_changes_a_picture_changes_the_fingerprint(field, value):
    assert changed(WHOLE, field, value).fingerprint() != WHOLE.fingerprint()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("drawn", None),
        ("text_encoder_on_cpu", True),
        ("base.name", "other"),
        ("base.layout", None),
        ("lora.tensors_digest", None),
        ("reference.file", "panel-2-reference.png"),
        ("reference.model", "own"),
        ("character.file", None),
    ],
)
def test_what_changes_no_picture_leaves_the_fingerprint(field, value):
    assert changed(WHOLE, field, value).fingerprint() == WHOLE.fingerprint()
