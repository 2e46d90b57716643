"""Embeddings and latents of an earlier run that are damaged: noticed, and made again the same."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import artifacts
from storyboard.models import bases, conditioning, embedding_files
from storyboard.models.run import run_on
from storyboard.training import cache

PROMPTS = ("a cat", "a (dog:1.3)")


@pytest.fixture
def encode(make_settings):
    """The embeddings of PROMPTS on mini."""
    run = run_on(bases.get("mini"), make_settings(base="mini"))
    return lambda prompts=PROMPTS: conditioning.encode(run, prompts)


def kept(tmp_path):
    return sorted((tmp_path / "out" / "cache" / "text").rglob("*.safetensors"))


def other_shape(path):
    tensors = load_file(path)
    save_file({name: tensor[:3] for name, tensor in tensors.items()}, path, {"chunks": "[]"})


def other_values(path):
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, {"chunks": "[]"})


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "text": lambda path: path.write_text("<html>"),
    "one bit": flipped,
    "another shape": other_shape,
    "other values": other_values,
}


def same(found, expected):
    return all(
        torch.equal(found[prompt].tokens, expected[prompt].tokens)
        and torch.equal(found[prompt].pooled, expected[prompt].pooled)
        for prompt in PROMPTS
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_embedding_is_made_again_with_a_word(encode, tmp_path, damage, capsys):
    expected = encode()
    DAMAGES[damage](kept(tmp_path)[0])
    assert same(encode(), expected)
    assert "1 embeddings kept in" in capsys.readouterr().out
    assert same(encode(), expected) and capsys.readouterr().out == ""


def test_the_embedding_of_another_prompt_is_not_taken_for_ones_own(encode, tmp_path):
    expected = encode()
    first, second = kept(tmp_path)
    shutil.copy(first, second)
    assert same(encode(), expected)


def test_the_oldest_embeddings_go_when_there_are_too_many(encode, tmp_path, monkeypatch):
    encode()
    old = kept(tmp_path)
    for path in old:
        os.utime(path, (1, 1))
    own = old[0].with_name("of the user.safetensors")
    own.write_bytes(b"x" * 1000)
    monkeypatch.setattr(embedding_files, "MOST_BYTES", 1)
    encode(("a bird",))
    assert kept(tmp_path) == sorted([own, *set(kept(tmp_path)) - {own}])
    assert not any(path.exists() for path in old) and len(kept(tmp_path)) == 2


@pytest.fixture
def prepare(captions, make_settings):
    """The cache of ten pictures on mini."""
    run = run_on(bases.get("mini"), make_settings(base="mini"))
    return lambda: cache.prepare(captions, run)


def latents_of(tmp_path):
    return tmp_path / "out" / "cache" / "latents" / "latents.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_latents_are_made_again_with_a_word(prepare, tmp_path, damage, capsys):
    expected = prepare()
    path = latents_of(tmp_path)
    DAMAGES[damage](path)
    found = prepare()
    assert list(found.latents) == list(expected.latents)
    assert all(torch.equal(found.latents[size], expected.latents[size]) for size in found.latents)
    assert "latents.safetensors is damaged" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("change", ["captions", "shape", "names", "not finite"])
def test_latents_without_a_digest_are_looked_at(prepare, tmp_path, change):
    """Those that an earlier release kept."""
    expected, path = prepare(), latents_of(tmp_path)
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".latents"))
    if change == "captions":
        tensors[name.replace("latents", "captions")] += 100
    elif change == "shape":
        tensors[name] = tensors[name][:-1]
    elif change == "names":
        tensors["64x64.other"] = torch.zeros(1)
    else:
        tensors[name][0, 0, 0, 0] = torch.nan
    save_file(tensors, path)
    manifest = path.with_name(artifacts.MANIFEST)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["digest"]
    content["files"][path.name] = path.stat().st_size
    manifest.write_text(json.dumps(content), encoding="utf-8")
    found = prepare()
    assert all(torch.equal(found.latents[size], expected.latents[size]) for size in found.latents)
