"""Files that are damaged: what they belong to is made anew, with a word."""

import json
import shutil

import pytest

from storyboard import artifacts, render, score, train
from storyboard.errors import LoraError
from storyboard.training import loop

HOWS = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "another type": lambda content: b"[1, 2]",
    "deep": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "name", ["manifest.json", ".manifest.json", "loss.csv", "lora.safetensors"]
)
def test_a_damaged_lora_folder_is_made_anew_with_a_word(tmp_path, capsys, name, how):
    made = tmp_path / "lora"

    def make():
        with artifacts.building(made) as folder:
            (folder / "lora.safetensors").write_bytes(b"weights" * 9)
            (folder / "loss.csv").write_text("step,loss\n1,0.5\n" * 3)
            artifacts.write_manifest(folder, "train", "abc", previews=[])

    make()
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    (made / name).write_bytes(HOWS[how](before[name]))
    assert artifacts.finished(made, "abc") is None
    assert f"{name} is damaged" in capsys.readouterr().out.replace("/.manifest", "/manifest") or how
    make()
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert artifacts.finished(made, "abc")


@pytest.mark.parametrize(
    ("name", "value"),
    [("files", ["a"]), ("files", {"a.txt": "big"}), ("stage", 1), ("fingerprint", None)],
)
def test_a_manifest_of_other_types_is_none(tmp_path, name, value):
    content = {"stage": "test", "fingerprint": "abc", "files": {"a.txt": 1}} | {name: value}
    artifacts.write_json(tmp_path / "manifest.json", content)
    assert artifacts.finished(tmp_path, "abc") is None


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("state.safetensors", "cut"),
        ("state.safetensors", "a bit"),
        ("milestones.json", "zeros"),
        ("step-000004.safetensors", "a bit"),
    ],
)
def test_a_damaged_state_begins_anew_with_a_word(trained, tmp_path, monkeypatch, capsys, name, how):
    settings, _, captions, lora = trained
    again = settings.but(output=str(tmp_path))
    shutil.copytree(settings.folder / "cache", tmp_path / "cache")
    interrupt_at(monkeypatch, 8, lambda: train(captions, again))
    (kept,) = (tmp_path / ".checkpoint").iterdir()
    (kept / name).write_bytes(HOWS[how]((kept / name).read_bytes()))
    assert train(captions, again).digest == lora.digest
    printed = capsys.readouterr().out
    assert "is damaged" in printed and "training begins anew" in printed
    assert not (tmp_path / ".checkpoint").exists()
    for path in lora.checkpoints:
        made = tmp_path / "lora" / path.relative_to(lora.path.parent)
        assert made.read_bytes() == path.read_bytes()


def interrupt_at(monkeypatch, step, work):
    """Interrupt ``work`` in a step of training."""
    real, calls = loop.diffusion_loss, []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "diffusion_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work()


def test_previews_from_before_a_break_are_kept(trained, tmp_path, monkeypatch):
    settings, story, captions, lora = trained
    again = settings.but(output=str(tmp_path))
    shutil.copytree(settings.folder / "cache", tmp_path / "cache")
    interrupt_at(monkeypatch, 8, lambda: train(captions, again, story))
    resumed = train(captions, again, story)
    assert resumed.previews == lora.previews
    for preview in lora.previews:
        for name in preview["pictures"]:
            made = resumed.path.parent / name
            assert made.read_bytes() == (lora.path.parent / name).read_bytes()


def test_a_changed_lora_is_not_drawn_with(trained, tmp_path):
    settings, story, _, lora = trained
    shutil.copytree(lora.path.parent, tmp_path / "lora")
    path = tmp_path / "lora" / "lora.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = type(lora)(path, lora.base, lora.digest, lora.losses, lora.previews)
    with pytest.raises(LoraError, match="is not the file that was trained.*run the training cell"):
        render(story, settings.but(output=str(tmp_path)), changed)


def test_a_changed_panel_is_drawn_again_with_a_word(trained, tmp_path, capsys):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    pictures = render(story, settings, lora)
    before = {path.name: path.read_bytes() for path in pictures.folder.iterdir()}
    content = bytearray(before["panel-2.png"])
    content[len(content) // 2] ^= 8
    pictures.paths[1].write_bytes(content)
    capsys.readouterr()
    render(story, settings, lora)
    printed = capsys.readouterr().out
    assert "panel-2.png is missing or damaged" in printed and "drew 1 of 3" in printed
    assert {path.name for path in pictures.folder.iterdir()} == before.keys()
    assert pictures.paths[0].read_bytes() == before["panel-1.png"]


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """(settings, captions, pictures, scores) in a folder of its own."""
    settings, story, captions, lora = trained
    settings = settings.but(output=str(tmp_path_factory.mktemp("scored")))
    pictures = render(story, settings, lora)
    return settings, captions, pictures, score(pictures, settings, captions)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("pattern", ["story.json", "training-set-*"])
def test_damaged_scores_are_measured_again_with_a_word(scored, capsys, pattern, how):
    settings, captions, pictures, before = scored
    folder = settings.folder / "scores"
    for path in folder.glob(pattern):
        whole = path.read_bytes()
        path.write_bytes(HOWS[how](whole))
    if pattern != "story.json":
        (folder / "story.json").unlink()
    capsys.readouterr()
    assert score(pictures, settings, captions) == before
    assert "is damaged" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_scores_of_other_types_are_measured_again(tmp_path):
    from storyboard.scoring import measuring

    for content in ([], {"fingerprint": "a"}, {"fingerprint": "a", "measures": {"match": 3}}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert measuring._read(tmp_path / "a.json", "a") is None


def test_what_an_earlier_release_wrote_without_digests_is_taken(tmp_path):
    (tmp_path / "one.txt").write_text("1")
    content = {"stage": "test", "fingerprint": "abc", "files": {"one.txt": 1}}
    artifacts.write_json(tmp_path / "manifest.json", content | {"release": artifacts.RELEASE})
    assert artifacts.finished(tmp_path, "abc")
    assert artifacts.named(tmp_path) >= {"one.txt", "manifest.json"}
