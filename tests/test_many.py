"""Many stories in this process and on a Ray of two nodes: what ``render`` draws, once each."""

import json
import re
from dataclasses import replace

import pytest

from storyboard import Panel, Reference, Story, artifacts, render, render_many
from storyboard.errors import LoraError, RenderingError, SettingsError
from storyboard.models import conditioning, embedding_files
from storyboard.rendering import many_workers, sampling
from tests.conftest import picture
from tests.ray_drawer import KilledDrawer

STORIES = {
    "purple": Story(["紫色短发女孩，微笑", "绿色长发女孩"], "模糊"),
    "a boy": Story([Panel("a boy with short red hair", seed=7)]),
    "雨天": Story(["雨天，撑着雨伞", "(海边:1.3)", "夜空"], "blurry", common="黑色短发女孩"),
}
PANELS = 6


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory):
    """(settings, lora, name -> Pictures) of the stories as ``render`` draws them."""
    settings, _, _, lora = trained
    settings = settings.but(output=str(tmp_path_factory.mktemp("alone")))
    folder = settings.folder
    return (
        settings,
        lora,
        {name: render(story, settings, lora, folder / name) for name, story in STORIES.items()},
    )


def contents(pictures):
    return {path.name: path.read_bytes() for path in sorted(pictures.folder.glob("*.*"))}


def assert_equal(made, alone):
    assert list(made.stories) == list(alone) and made.failures == {}
    for name, pictures in made.stories.items():
        assert pictures.panels == alone[name].panels
        assert contents(pictures) == contents(alone[name])


def manifest(made):
    return [json.loads(line) for line in made.manifest.read_text(encoding="utf-8").splitlines()]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_many_stories_are_those_that_render_draws(alone, tmp_path, monkeypatch, capsys):
    settings, lora, drawn = alone
    settings = settings.but(output=str(tmp_path))
    loaded, encoders = [], []
    for module, name, calls in (
        (sampling, "load_pipeline", loaded),
        (conditioning, "text_pipeline", encoders),
    ):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, calls=calls: calls.append(1) or real(*a)
        )
    made = render_many(STORIES, settings, lora)
    assert_equal(made, drawn)
    assert len(loaded) == len(encoders) == 1
    assert f"render_many: drew {PANELS} of {PANELS} panels, {made}" in capsys.readouterr().out

    lines = manifest(made)
    assert [(line["story"], line["panel"]) for line in lines] == [
        (name, number) for name, story in STORIES.items() for number in range(1, len(story) + 1)
    ]
    assert all(
        artifacts.digest_of_file(made.folder / each["file"]) == each["sha256"] for each in lines
    )
    assert lines[4]["prompt"] == "黑色短发女孩，(海边:1.3)" and lines[4]["seed"] == 43
    assert all(line["seconds"] > 0 for line in lines)
    assert made._repr_html_().count("data:image/jpeg;base64") == 3

    before = times(tmp_path)
    assert_equal(render_many(STORIES, settings, lora), drawn)
    assert "drew 0 of 6 panels" in capsys.readouterr().out
    assert {**times(tmp_path), made.manifest: 0} == {**before, made.manifest: 0}
    assert manifest(made) == lines and len(loaded) == len(encoders) == 1


def test_references_and_the_character_of_one_story_do_not_reach_the_next(make_settings, tmp_path):
    picture(3, 64).save(tmp_path / "sketch.png")
    stories = {
        "edges": Story(["雨天", Panel("海边", reference=str(tmp_path / "sketch.png"))]),
        "plain": Story(["雨天", "海边"]),
        "again": Story(["雨天", Panel("海边", reference=str(tmp_path / "sketch.png"))]),
    }
    settings = make_settings(base="mini", character="shared")
    made = render_many(stories, settings, None)
    alone = {
        name: render(story, settings, None, tmp_path / name) for name, story in stories.items()
    }
    assert_equal(made, alone)


def test_an_interrupted_call_goes_on(alone, tmp_path, monkeypatch, capsys):
    settings, lora, drawn = alone
    settings = settings.but(output=str(tmp_path))
    real, count = sampling.as_image, 0

    def interrupted(decoded):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(decoded)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "as_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_many(STORIES, settings, lora)
    assert (tmp_path / "many" / "manifest.jsonl").read_text(encoding="utf-8").count("\n") == 2
    assert not list(tmp_path.rglob(".storyboard"))
    assert_equal(render_many(STORIES, settings, lora), drawn)
    assert "drew 4 of 6 panels" in capsys.readouterr().out


def test_a_story_that_fails_does_not_end_the_others(alone, tmp_path, monkeypatch, capsys):
    settings, lora, drawn = alone
    settings = settings.but(output=str(tmp_path))
    bad = {
        "blank": Story([Panel("空白", seed=5)]),
        "lost": Story([Panel("x", reference=Reference(tmp_path / "none.png", control="image"))]),
        "heavy": Story(["(紫色:9)绿色长发女孩"]),
    }
    real = sampling.draw

    def draw(pipe, positive, negative, seeds, *more, **named):
        if 5 in seeds:
            raise RenderingError("The picture of seed 5 came out blank.")
        yield from real(pipe, positive, negative, seeds, *more, **named)

    encoding_of = conditioning.encoding_of

    def overflowing(family):
        class Overflowing(encoding_of(family)):
            def encode(self, prompt):
                embedding = super().encode(prompt)
                factor = float("inf") if "紫色:9" in prompt else 1
                return replace(embedding, tokens=embedding.tokens * factor)

        return Overflowing

    monkeypatch.setattr(sampling, "draw", draw)
    monkeypatch.setattr(conditioning, "encoding_of", overflowing)
    made = render_many(bad | STORIES, settings, lora)
    assert list(made.stories) == list(STORIES) and list(made.failures) == list(bad)
    assert made.failures["blank"] == "The picture of seed 5 came out blank."
    assert "cannot be read as a picture" in made.failures["lost"]
    assert "its embedding overflows" in made.failures["heavy"]
    assert all(contents(made.stories[name]) == contents(drawn[name]) for name in STORIES)
    assert "3 of 6 stories, 3 failed, 6 pictures in" in str(made)
    said = capsys.readouterr().out
    assert "render_many: blank failed: The picture of seed 5 came out blank." in said
    assert "3 failed" in said.splitlines()[-1] and "blank: The picture" in made._repr_html_()
    errors = {line["story"]: line["error"] for line in manifest(made) if "error" in line}
    assert errors == made.failures


def test_what_would_fail_in_all_stories_ends_the_call(alone, tmp_path):
    settings, lora, _ = alone
    settings = settings.but(output=str(tmp_path))
    with pytest.raises(SettingsError, match="must be a multiple of"):
        render_many(STORIES, settings.but(resolution=66), lora)
    with pytest.raises(LoraError, match="There is no LoRA at"):
        render_many(STORIES, settings, tmp_path / "none.safetensors")
    assert not (tmp_path / "many").exists()


def test_a_manifest_that_is_not_ours_is_not_replaced(make_settings, tmp_path):
    settings = make_settings()
    path = settings.folder / "many" / "manifest.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="is not a file that Storyboard made: move it away"):
        render_many(STORIES, settings, None)
    assert path.read_text(encoding="utf-8") == "[1]\n"


def test_no_embedding_is_forgotten_before_it_is_used(alone, tmp_path, monkeypatch):
    settings, lora, drawn = alone
    monkeypatch.setattr(embedding_files, "MOST_BYTES", 0)
    encoders, real = [], conditioning.text_pipeline
    monkeypatch.setattr(conditioning, "text_pipeline", lambda *a: encoders.append(1) or real(*a))
    settings = settings.but(output=str(tmp_path))
    assert_equal(render_many(STORIES, settings, lora), drawn)
    assert len(encoders) == 1 and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_paths_hold_in_the_folders_of_workers(alone, tmp_path, monkeypatch):
    settings, *_ = alone
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "a.png").touch()
    own = many_workers.settings_everywhere(settings.but(output="out", base="own", cluster="local"))
    assert own.output == str(tmp_path / "out") and own.base == str(tmp_path / "own")
    assert own.cluster is None
    assert many_workers.settings_everywhere(settings.but(base="mini")).base == "mini"
    reference = Reference("a.png", weights="me/net")
    moved = many_workers.story_everywhere(Story([Panel("x", reference=reference), "y"], common="z"))
    assert moved[0].reference.picture == str(tmp_path / "a.png")
    assert moved[0].reference.weights == "me/net" and moved[1].reference is None
    assert moved.common == "z"


def test_machines_that_would_draw_otherwise_are_refused():
    kinds = [many_workers.Encoded("mini", "f", each) for each in ("fp32", "fp32", "bf16")]
    assert many_workers.agreed(kinds[:2]) == ("mini", "fp32")
    with pytest.raises(SettingsError, match="would draw with mini in fp32 and mini in bf16: set"):
        many_workers.agreed(kinds)


def test_a_story_whose_workers_die_again_and_again_is_given_up(make_settings, tmp_path):
    drawer = many_workers.Drawer(make_settings(), None)
    mark = tmp_path / "out" / ".storyboard" / "unfinished" / "purple.begun"
    mark.parent.mkdir(parents=True)
    mark.write_text("....", encoding="ascii")
    drawn = drawer({"name": "purple", "story": STORIES["purple"]})["drawn"]
    assert drawn.pictures is None and "died 4 times, for want of memory perhaps" in drawn.error
    assert not mark.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_draws_what_this_process_draws_though_a_worker_is_killed(
    alone, two_nodes, tmp_path, monkeypatch, capsys
):
    settings, lora, drawn = alone
    settings = settings.but(output=str(tmp_path / "out"), cluster=two_nodes.address)
    monkeypatch.setattr(many_workers, "Drawer", KilledDrawer)
    made = render_many(STORIES, settings, lora)
    assert (tmp_path / "killed").exists()
    assert_equal(made, drawn)
    assert not list((tmp_path / "out").rglob(".storyboard"))
    assert re.search("render_many: 2 machines, 2 CPUs", capsys.readouterr().out)

    monkeypatch.undo()
    before = times(tmp_path / "out" / "many")
    assert_equal(render_many(STORIES, settings, lora), drawn)
    after = times(tmp_path / "out" / "many")
    assert {**after, made.manifest: 0} == {**before, made.manifest: 0}
