"""Fixtures: a small captioned folder, settings that write into a temporary folder, one short real training run."""

import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]

from storyboard import Settings, Story, clean, collect, train


def pytest_collection_modifyitems(config, items):
    """Tests of the mark ``full`` run where ``-m`` asks for them by name."""
    if "full" in config.getoption("markexpr"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
    items[:] = [item for item in items if not item.get_closest_marker("full")]


def picture(seed: int, side: int = 256) -> Image.Image:
    """A sharp drawing, different for every seed."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side), tuple(rng.randrange(120, 256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = rng.randrange(side), rng.randrange(side), rng.randrange(side // 10, side // 3)
        pen.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=tuple(rng.randrange(256) for _ in range(3)),
            outline="black",
            width=4,
        )
    return image


@pytest.fixture
def make_settings(tmp_path):
    """Settings that write under the test's own folder."""

    def make(**changes) -> Settings:
        return Settings(
            **{
                "output": str(tmp_path / "out"),
                "resolution": 64,
                "train_steps": 4,
                "train_batch_size": 4,
                "num_inference_steps": 3,
            }
            | changes
        )

    return make


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten good pictures with captions beside them in .txt files, kohya's way."""
    found = tmp_path / "pictures"
    found.mkdir()
    for seed in range(10):
        picture(seed).save(found / f"{seed}.png")
        (found / f"{seed}.txt").write_text(f"画 {seed}", encoding="utf-8")
    return found


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(settings, story, captions, lora) of a short but real run on the sample set."""
    settings = Settings(
        output=str(tmp_path_factory.mktemp("trained")),
        resolution=64,
        train_steps=12,
        train_batch_size=4,
        num_inference_steps=4,
    )
    story = Story(
        [
            "二次元，紫色短发女孩，微笑",
            "二次元，绿色长发女孩，难过",
            "anime, a boy with short red hair",
        ],
        negative_prompt="模糊",
    )
    captions = clean(collect(settings), settings).captions
    return settings, story, captions, train(captions, settings, story)


@pytest.fixture(scope="session")
def hub_root(tmp_path_factory):
    """A local folder laid out like a hub, with tiny Kolors, SDXL and SD 1.5."""
    from tests import tiny

    root = tmp_path_factory.mktemp("hub")
    for name in tiny.HUB:
        tiny.build(name, root)
    return root


@pytest.fixture
def hub(hub_root, monkeypatch):
    """name -> that base from the stand-in hub."""
    from storyboard.models import bases, weights

    monkeypatch.setenv("STORYBOARD_HUB", str(hub_root))
    return lambda name: weights.fetch(bases.get(name))


@pytest.fixture
def single(hub, tmp_path, monkeypatch):
    """(name, **tensors) -> a checkpoint in one file of the tiny base, and its folder."""
    from storyboard.models.download import CACHE
    from tests import original_layout

    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))

    def make(name, **more):
        base = hub(name)
        path = original_layout.write(base, tmp_path / "anime.safetensors", more)
        return path, base.folder

    return make


@pytest.fixture
def captions(folder, make_settings, tmp_path):
    """The ten pictures of ``folder``, collected."""
    return collect(make_settings(dataset=str(folder), output=str(tmp_path / "collected")))
