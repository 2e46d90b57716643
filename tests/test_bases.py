"""Bases: what a folder must hold, and its fingerprint."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError
from storyboard.models import base as base_module
from storyboard.models import bases
from tests import tiny


@pytest.fixture
def copy(tmp_path):
    """A copy of mini whose files may be spoilt."""
    return tiny.copied(bases.get("mini"), tmp_path / "mini")


def test_mini_is_whole_and_small():
    base = bases.get("mini")
    base.check()
    sizes = [path.stat().st_size for path in base.folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 40e6 and max(sizes) < 16e6


def test_fingerprint_follows_content_not_place(copy):
    assert copy.fingerprint() == bases.get("mini").fingerprint()
    config = copy.folder / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    assert copy.fingerprint() != bases.get("mini").fingerprint()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "lacks .*unet"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1000]),
            "bytes long where its header asks for",
        ),
        (lambda path: path.write_bytes(b"<html>not weights</html>"), "is not a safetensors file"),
    ],
)
def test_missing_truncated_or_foreign_weights_are_named(copy, spoil, message):
    spoil(copy.weight_files("unet")[0])
    with pytest.raises(BaseError, match=message) as error:
        copy.check()
    assert "\n" not in str(error.value)


def test_a_missing_shard_or_vocabulary_is_named(hub, tmp_path):
    base = tiny.copied(hub("kolors"), tmp_path / "copy")
    shard = base.weight_files("text_encoder")[1]
    shard.rename(shard.with_suffix(".gone"))
    with pytest.raises(BaseError, match=f"lacks .*{shard.name}"):
        base.check()
    shard.with_suffix(".gone").rename(shard)
    (base.folder / "tokenizer" / "tokenizer.model").unlink()
    with pytest.raises(BaseError, match="lacks a vocabulary in"):
        base.check()


def test_another_checkpoint_of_the_same_layout_has_another_fingerprint(copy, monkeypatch):
    monkeypatch.setattr(base_module, "WHOLE_FILE_LIMIT", 2**20)
    before, path = copy.fingerprint(), copy.weight_files("unet")[0]
    tensors = load_file(path)
    changed = {
        name: tensor * 1.001 if name.startswith("up_blocks.1") else tensor
        for name, tensor in tensors.items()
    }
    save_file(changed, path)
    assert path.stat().st_size > base_module.WHOLE_FILE_LIMIT and copy.fingerprint() != before


def test_a_missing_file_of_the_embedded_base_is_restored_from_git(copy):
    copy.weight_files("vae")[0].unlink()
    with pytest.raises(BaseError, match="restore it from the repository .git checkout -- "):
        copy.check()


def test_a_base_that_a_script_registers_is_found_by_its_name(copy):
    base = bases.register(replace(copy, name="mine"))
    try:
        assert bases.get("mine") == base and "mine" in bases.names()
    finally:
        bases.forget("mine")
    assert "mine" not in bases.names()
