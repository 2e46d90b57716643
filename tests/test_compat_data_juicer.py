"""What Data-Juicer changes in a process, and that it is as before afterwards."""

import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap

import datasets
import huggingface_hub.constants
import multiprocess
import pytest
import torch
from loguru import logger
from PIL import Image, ImageFile

from storyboard import clean, collect
from storyboard.compat import datasets as datasets_compat
from storyboard.compat import loguru, pillow, process
from storyboard.compat.data_juicer import data_juicer, parameters_of
from storyboard.errors import LibraryError, SettingsError
from tests.conftest import picture

RECIPE = """process:
- clean_links_mapper: {}
- text_length_filter: {min_len: 1}
- image_near_deduplicator: {}
"""


def state() -> dict[str, object]:
    """Everything of the process that Data-Juicer or a library under it is known to change."""
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "loguru's sinks": dict(logger._core.handlers),
        "loguru's activation": (list(logger._core.activation_list), logger._core.activation_none),
        "root logger": (root.level, list(root.handlers)),
        "sys.path": list(sys.path),
        "standard streams": (sys.stdout, sys.stderr),
        "truncated pictures": ImageFile.LOAD_TRUNCATED_IMAGES,
        "largest picture": Image.MAX_IMAGE_PIXELS,
        "progress bars": (
            datasets.are_progress_bars_disabled(),
            huggingface_hub.utils.are_progress_bars_disabled(),
        ),
        "offline": (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE),
        "caching": datasets.is_caching_enabled(),
        "start methods": [
            pool.get_start_method(allow_none=True) for pool in (multiprocessing, multiprocess)
        ],
        "threads": torch.get_num_threads(),
    }


def changed(before: dict[str, object]) -> dict[str, tuple]:
    after = state()
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


@pytest.mark.slow
def test_the_process_is_as_before_after_collect_and_clean(folder, make_settings, tmp_path):
    """In a process of its own, because importing Data-Juicer changes most, and happens once."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    script = """
        import sys
        from loguru import logger
        from PIL import ImageFile
        from storyboard import Settings, clean, collect
        from storyboard.data import juicer
        from tests.test_compat_data_juicer import changed, state

        juicer.ROWS_PER_PROCESS = 4  # several processes
        messages = []
        logger.add(messages.append, format="{message}")
        settings = Settings(dataset=sys.argv[1], recipe=sys.argv[2], output=sys.argv[3])

        before = state()
        captions = collect(settings)
        assert not changed(before), changed(before)
        assert "data_juicer" not in sys.modules
        report = clean(captions, settings)
        assert not changed(before), changed(before)
        assert len(report.captions) == 10 and not messages

        logger.info("mine")
        assert messages == ["mine\\n"]
    """
    arguments = [str(folder), str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], check=True)


def test_the_process_is_as_before_after_an_error(folder, make_settings, tmp_path):
    (tmp_path / "recipe.yaml").write_text("process: [{image_shap_filter: {}}]")
    settings = make_settings(dataset=str(folder), recipe=str(tmp_path / "recipe.yaml"))
    captions = collect(settings)
    before = state()
    with pytest.raises(SettingsError):
        clean(captions, settings)
    assert not changed(before)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    logger.disable("data_juicer.ops")
    datasets.disable_progress_bars()
    try:
        before = state()
        with data_juicer():
            assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        assert not changed(before)
    finally:
        datasets.enable_progress_bars()
        logger.enable("data_juicer.ops")


def test_nothing_is_installed_inside_and_the_installer_is_as_before():
    from data_juicer.utils.lazy_loader import LazyLoader

    installer = LazyLoader.__dict__["_install_package"]
    with data_juicer(), pytest.raises(SettingsError, match="needs nothing-such"):
        LazyLoader._install_package("nothing-such")
    assert LazyLoader.__dict__["_install_package"] is installer


def test_a_moved_installer_is_named(monkeypatch):
    from data_juicer.utils.lazy_loader import LazyLoader

    monkeypatch.delattr(LazyLoader, "_install_package")
    message = r"py-data-juicer 1\.\S+ has no LazyLoader"
    with pytest.raises(LibraryError, match=message) as error, data_juicer():
        pass
    assert "\n" not in str(error.value)


def test_operators_have_the_private_parts_that_are_read():
    with data_juicer() as ops:
        sharing = ops.OPERATORS.modules["image_deduplicator"]
        parameters = parameters_of(ops.OPERATORS.modules["text_length_filter"])
        assert parameters["min_len"].annotation is int and parameters["text_key"].default == "text"
        assert "context" in sharing.compute_hash.__code__.co_varnames


@pytest.mark.slow
def test_executors_are_imported_by_who_uses_one_alone(folder, make_settings):
    collected = collect(make_settings(dataset=str(folder)))
    script = """
        import sys
        from pathlib import Path
        from storyboard.data import juicer
        from storyboard.data.captions import Captions
        from storyboard.data.recipes import Recipe, Step

        sys.modules["ray"] = None  # as where it is not installed
        juicer.ROWS_PER_PROCESS = 1  # several processes, for which operators are pickled
        captions = Captions.load(Path(sys.argv[1]))
        recipe = Recipe(Path("r.yaml"), [Step("image_shape_filter", {})])
        outcome = juicer.run(captions, recipe, Path(sys.argv[1]) / "mapped")
        assert outcome.texts and sys.modules.pop("ray") is None
        import data_juicer.core
        assert data_juicer.core.DefaultExecutor and "ray" in sys.modules
        assert data_juicer.core.data.NestedDataset is data_juicer.core.NestedDataset
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script), str(collected.folder)]
    subprocess.run(arguments, check=True)


def test_sinks_survive_a_library_that_configures_the_logger():
    messages = []
    sink = logger.add(messages.append, format="{message}")
    with loguru.sinks_kept():
        logger.remove()
        logger.add(lambda _: pytest.fail("a sink of the library's own"))
    logger.info("heard")
    logger.remove(sink)
    assert messages == ["heard\n"] and "remove" not in vars(logger)


def test_only_the_named_package_is_silenced():
    messages = []
    sink = logger.add(messages.append, format="{message}")
    with loguru.silenced(__name__):
        logger.info("dropped")
        with loguru.silenced("another"):
            logger.info("dropped too")
    with loguru.silenced("another"):
        logger.info("heard")
    logger.remove(sink)
    assert messages == ["heard\n"]


def test_progress_bars_and_offline_flags_are_as_before():
    before = state()
    with datasets_compat.progress_bars_hidden(), datasets_compat.offline():
        assert datasets.are_progress_bars_disabled() and datasets.config.HF_HUB_OFFLINE
        assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert not changed(before)


def test_a_process_is_as_before():
    before = state()
    with process.state_kept():
        logging.basicConfig(level=logging.DEBUG, force=True)
        sys.path.append("elsewhere")
        multiprocess.set_start_method("spawn", force=True)
        torch.set_num_threads(before["threads"] + 1)
    assert not changed(before)


@pytest.mark.parametrize("before", [False, True])
def test_a_truncated_picture_is_an_error_where_it_shall_be(tmp_path, monkeypatch, before):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    picture(0).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    cut = tmp_path / "cut.png"
    with pillow.truncated_images(allowed=False), pytest.raises(OSError, match="truncated"):
        Image.open(cut).load()
    with pillow.truncated_images(allowed=True):
        Image.open(cut).load()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
