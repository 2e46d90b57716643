"""Which tests run, and where, and fixtures: a captioned folder, settings, a training, a hub."""

import functools
import os
import random
import re
import secrets
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

import storyboard  # its names are imported when a fixture uses them: collecting stays quick

ROOT = Path(__file__).resolve().parents[1]
# fixtures whose tests train, or draw many pictures
SLOW_FIXTURES = {"trained", "executed", "tiny_controlnets", "sketch"}

# Ray reads these when it is imported; otherwise it would write a token into the home folder
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
if "PYTEST_XDIST_WORKER" in os.environ:
    # threads of two workers wait for each other; read when torch is imported, here and in children
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The markers are defined in pyproject.toml; these are the only rules that pytest does not have.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """``full`` implies ``slow``, and runs only where ``-m`` names it other than by "not full".

    What uses one of ``SLOW_FIXTURES`` is slow. Modules that start a Ray come first: they take
    minutes.
    """
    full = [item for item in items if item.get_closest_marker("full")]
    for item in full:
        item.add_marker("slow")

    if not re.search(r"(?<!not )\bfull\b", config.getoption("markexpr")):
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]

    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")

    items.sort(key=lambda item: not _starts_ray(item.path))


def pytest_xdist_make_scheduler(config, log):
    """With several processes one takes all of a module, and of all modules that start a Ray.

    Two Rays keep each other waiting.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "ray" if _starts_ray(ROOT / file) else file

    return Scheduling(config, log)


@functools.cache
def _starts_ray(path):
    return "@pytest.mark.ray\n" in path.read_text(encoding="utf-8")


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

    def make(**changes) -> "storyboard.Settings":
        return storyboard.Settings(
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
def clean_by(folder, make_settings, tmp_path):
    """(process, settings) -> (collected captions, the report of a recipe over ``folder``)."""

    def run(*process, **settings):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"process": list(process)}), encoding="utf-8")
        made = make_settings(dataset=str(folder), recipe=str(path), **settings)
        captions = storyboard.collect(made)
        return captions, storyboard.clean(captions, made)

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten pictures with captions in .txt files of the same names, as kohya's scripts read them."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(10):
        picture(seed).save(pictures / f"{seed}.png")
        (pictures / f"{seed}.txt").write_text(f"画 {seed}", encoding="utf-8")
    return pictures


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(settings, story, captions, lora) of a short but real run on the sample set."""
    settings = storyboard.Settings(
        output=str(tmp_path_factory.mktemp("trained")),
        resolution=64,
        train_steps=12,
        train_batch_size=4,
        num_inference_steps=4,
    )
    story = storyboard.Story(
        [
            "二次元，紫色短发女孩，微笑",
            "二次元，绿色长发女孩，难过",
            "anime, a boy with short red hair",
        ],
        negative_prompt="模糊",
    )
    captions = storyboard.clean(storyboard.collect(settings), settings).captions
    return settings, story, captions, storyboard.train(captions, settings, story)


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
    return storyboard.collect(
        make_settings(dataset=str(folder), output=str(tmp_path / "collected"))
    )


@pytest.fixture
def kept_settings(tmp_path):
    """Settings whose output folder holds, in small, what is worth keeping."""
    from tests import kept

    made = storyboard.Settings(output=tmp_path / "outputs", rank=8)
    kept.make(made)
    return made


@pytest.fixture
def elsewhere(kept_settings, tmp_path):
    """``kept_settings`` on another machine."""
    return kept_settings.but(output=tmp_path / "another" / "outputs")


@pytest.fixture
def place(tmp_path):
    """A folder on what stands in for a mounted drive; only the drive is there."""
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive" / "story"


@pytest.fixture(scope="session")
def rays():
    """Those that were started, one at a time."""
    started = []
    yield started
    for ray in started:
        ray.end()


@pytest.fixture
def two_nodes(rays):
    """A real Ray of two nodes with one CPU each, another one after a test that ended a node."""
    from tests.ray_cluster import TwoNodes

    if rays and any(node.poll() is not None for node in rays[-1].nodes):
        rays.pop().end()
    if not rays:
        rays.append(TwoNodes())
    return rays[-1]
