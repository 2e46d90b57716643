"""Ids at the hubs, and where their clients keep what they fetch."""

from pathlib import Path

from storyboard.models import bases, hubs
from storyboard.models.hubs import HubModel
from storyboard.rendering.annotators import ANNOTATORS
from tests.conftest import ROOT


def test_caches_are_where_the_variables_say(monkeypatch, tmp_path):
    for name in (
        "MODELSCOPE_CACHE",
        "MS_CACHE_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    assert hubs.modelscope_cache() == Path.home() / ".cache" / "modelscope"
    assert hubs.huggingface_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "~/hf")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    assert (hubs.modelscope_cache(), hubs.huggingface_cache()) == (
        tmp_path,
        Path.home() / "hf" / "hub",
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert hubs.huggingface_cache() == tmp_path / "hub"


def test_a_users_id_is_one_at_both_hubs_and_with_a_revision_one_at_hugging_face():
    assert HubModel.of("a/b") == HubModel("a/b", "a/b") and HubModel.of("a/b@main") == HubModel(
        None, "a/b", "main"
    )
    assert str(HubModel("m/b", "h/b")) == "m/b" and str(HubModel.of("a/b@main")) == "a/b@main"


def test_every_side_model_names_its_hubs():
    models = [
        model
        for name in ("kolors", "sdxl", "sd15")
        for model in (*bases.get(name).controlnets.values(), bases.get(name).ip_adapter[0])
    ]
    assert all(
        isinstance(model, HubModel) and model.huggingface
        for model in (*models, *ANNOTATORS.values())
    )
    assert all(model.modelscope is None for model in models if model.revision)
    for language in ("en", "zh"):
        text = (ROOT / "docs" / language / "troubleshooting.md").read_text(encoding="utf-8")
        assert all(
            f"`{known}`" in text for model in (*models, *ANNOTATORS.values()) for known in model.ids
        )
