"""Captions for pictures without: folders' names, templates, and a BLIP of tiny random weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import collect
from storyboard.data import captioning
from storyboard.errors import BaseError, SettingsError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "girl",
    "boy",
    "red",
    "blue",
    "green",
    "short",
    "long",
    "hair",
    "cat",
    "rain",
    "smiling",
]


def texts_of(settings) -> dict[str, str]:
    """The captions that ``collect`` gives, by the picture's name in the data set."""
    return {row.source: row.text for row in collect(settings).rows}


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """Folder of a captioning model."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = small | {
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 150,
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BlipForConditionalGeneration(
            BlipConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16})
        ).save_pretrained(folder)
    BlipProcessor(
        BlipImageProcessor(size={"height": 32, "width": 32}),
        BertTokenizer(str(folder / "vocab.txt")),
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  ", True),
        ("12", True),
        ("IMG_0012", True),
        ("image (3)", True),
        ("图片", True),
        ("未命名", True),
        ("DSC00012", True),
        ("...", True),
        ("Untitled copy 2", True),
        ("画 0", False),
        ("a girl", False),
        ("紫发", False),
        ("picture of a cat", False),
        ("image of rain", False),
        ("图书馆", False),
    ],
)
def test_a_placeholder_is_recognised(text, expected):
    assert captioning.is_placeholder(text) == expected


def test_pictures_without_a_caption_are_described(folder, make_settings, blip, capsys):
    for seed, text in ((1, ""), (2, "IMG_0002"), (3, None)):
        (folder / f"{seed}.txt").unlink() if text is None else (folder / f"{seed}.txt").write_text(
            text
        )
    settings = make_settings(dataset=str(folder))
    assert [texts_of(settings)[f"{seed}.png"] for seed in range(4)] == ["画 0", "", "", ""]
    assert (
        "3 of 10 pictures have no caption that says anything"
        in (printed := capsys.readouterr().out)
        and "captioner" in printed
    )
    written = texts_of(settings.but(captioner=str(blip)))
    assert written["0.png"] == "画 0" and all(
        set(written[f"{seed}.png"].split()) <= {word.lower() for word in WORDS} | set(WORDS)
        for seed in (1, 2, 3)
    )
    assert any(written[f"{seed}.png"] for seed in (1, 2, 3)) and not any(
        "<" in text for text in written.values()
    )
    again = make_settings(
        dataset=str(folder), captioner=str(blip), output=settings.output + "-again"
    )
    assert texts_of(again) == written
    capsys.readouterr()
    collect(again)
    assert "nothing to do" in capsys.readouterr().out
    assert texts_of(settings.but(captioner=str(blip), caption_template="女孩"))["1.png"] == "女孩"


def test_a_captioner_that_cannot_be_says_why_and_nothing_is_lost(
    folder, make_settings, blip, tmp_path
):
    settings = make_settings(dataset=str(folder))
    (folder / "1.txt").unlink()
    before = collect(settings)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(
        json.dumps({"architectures": ["BertModel"], "model_type": "bert"})
    )
    with pytest.raises(SettingsError, match="captioner=.* has no safetensors weights"):
        collect(settings.but(captioner=str(strange)))
    (strange / "model.safetensors").write_bytes((blip / "model.safetensors").read_bytes())
    with pytest.raises(SettingsError, match="captioner=.* cannot describe pictures") as caught:
        collect(settings.but(captioner=str(strange)))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="captioner=3"):
        make_settings(captioner=3)
    assert (before.folder / "metadata.jsonl").is_file()


def test_a_captioner_that_no_hub_has_is_an_error(folder, make_settings, monkeypatch, tmp_path):
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path))
    (folder / "1.txt").unlink()
    with pytest.raises(BaseError, match="holds no someone/blip"):
        collect(make_settings(dataset=str(folder), captioner="someone/blip"))


def test_a_captioner_without_some_of_its_weights_is_an_error(folder, make_settings, blip, tmp_path):
    """transformers would fill them with random numbers and describe pictures with those."""
    shutil.copytree(blip, tmp_path / "blip")
    path = tmp_path / "blip" / "model.safetensors"
    lost = "text_decoder.bert.encoder.layer.0.attention.self.query.weight"
    tensors = load_file(path)
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "1.txt").unlink()
    with pytest.raises(SettingsError, match=f"cannot describe pictures .*{lost} is missing"):
        collect(make_settings(dataset=str(folder), captioner=str(tmp_path / "blip")))


def concepts(folder):
    """Put the pictures of ``folder`` into kohya's folders, one of each without a caption."""
    for name, seeds in {"10_purple hair": (0, 1, 2), "3_雨天": (3, 4), "plain": (5, 6)}.items():
        (folder / name).mkdir()
        for seed in seeds:
            (folder / f"{seed}.png").rename(folder / name / f"{seed}.png")
            (folder / f"{seed}.txt").rename(folder / name / f"{seed}.txt")
    for name in ("10_purple hair/1", "3_雨天/4", "plain/6"):
        (folder / f"{name}.txt").unlink()
    (folder / "10_purple hair" / "2.txt").write_text("  ")


def test_kohyas_folders_name_the_concept_of_pictures_without_a_caption(
    folder, make_settings, capsys
):
    concepts(folder)
    settings = make_settings(dataset=str(folder))
    texts, printed = texts_of(settings), capsys.readouterr().out
    assert [texts[f"10_purple hair/{seed}.png"] for seed in range(3)] == [
        "画 0",
        "purple hair",
        "purple hair",
    ]
    assert (
        texts["3_雨天/4.png"] == "雨天" and texts["plain/6.png"] == "" and texts["7.png"] == "画 7"
    )
    assert (
        "folders (3, 10) are not used as repeats" in printed
        and "1 of 10 pictures have no caption that says anything" in printed
        and "caption_template" in printed
    )


def test_a_template_captions_what_has_no_caption(folder, make_settings, capsys):
    concepts(folder)
    settings = make_settings(dataset=str(folder))
    texts_of(settings)
    capsys.readouterr()
    texts = texts_of(settings.but(caption_template="二次元，{folder}，{file}"))
    assert (
        "have no caption" not in capsys.readouterr().out
    )  # and what was collected without it is made anew
    assert [texts[name] for name in ("10_purple hair/1.png", "plain/6.png", "7.png")] == [
        "二次元，purple hair，1",
        "二次元，plain，6",
        "画 7",
    ]


def test_one_of_kohyas_folders_can_be_the_data_set(folder, make_settings):
    concepts(folder)
    assert texts_of(make_settings(dataset=str(folder / "10_purple hair")))["1.png"] == "purple hair"


def test_a_template_that_makes_too_long_a_caption_is_an_error(folder, make_settings):
    (folder / "1.txt").unlink()
    with pytest.raises(
        SettingsError, match="caption_template='xxx.* has 10,001 characters"
    ) as error:
        collect(make_settings(dataset=str(folder), caption_template="x" * 10_001))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("template", ["{name}", "{folder", "a}", 3])
def test_a_template_with_unknown_fields_is_an_error(make_settings, template):
    with pytest.raises(SettingsError, match="caption_template="):
        make_settings(caption_template=template)
