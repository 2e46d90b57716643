import pytest

from storyboard import artifacts, check, installed
from storyboard.errors import ResourceError, SettingsError


def test_the_table_names_what_matters(make_settings):
    text = str(check(make_settings()))
    for word in ("cores", "torch", "device", "free", "MB of weights present", "training about"):
        assert word in text


def test_too_little_disk_stops_the_run_here(make_settings, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    with pytest.raises(ResourceError, match="lacks 1.0 GB of the 2 GB a run needs") as error:
        check(make_settings())
    assert "\n" not in str(error.value)


def test_a_missing_recipe_stops_the_run_here(make_settings):
    with pytest.raises(SettingsError, match="no recipe 'none'"):
        check(make_settings(recipe="none"))


def test_a_kernel_that_holds_an_older_package_is_told(monkeypatch):
    assert ("kernel", "no restart needed") in installed().rows
    import torch

    monkeypatch.setattr(torch, "__version__", "1.0.0+cu118")
    assert installed().rows[-1][1] == "restart the kernel, it still holds an older torch"
