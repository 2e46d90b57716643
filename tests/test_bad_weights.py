"""Safetensors files and indices of bases that are damaged: refused by their headers."""

import json

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.spoilt_bases import opened, refused

DIFFUSERS = "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def copy(hub, tmp_path):
    """Folder of a tiny SD 1.5 whose files may be spoilt."""
    return tiny.copied(hub("sd15"), tmp_path / "copy").folder


def write_header(path, change):
    """Write the safetensors file at ``path`` anew with the header that ``change`` makes of its."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    written = change(header) or json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[end:])


NAME, TWIN = "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.1.conv1.weight"


def entry(**changes):
    return lambda header: header[NAME].update(changes)


def twice(header):
    return json.dumps(header).encode()[:-1] + b', "conv_in.bias": 1, "conv_in.bias": 2}'


HEADERS = {
    "integers": (entry(dtype="I32"), "numbers of the type I32"),
    "unknown type": (entry(dtype="X8"), "is of the unknown type 'X8'"),
    "no type": (entry(dtype=None), "is of the unknown type None"),
    "shorter type": (entry(dtype="F8_E4M3"), "where F8_E4M3 [32, 32, 3, 3] needs 9216"),
    "another shape": (entry(shape=[32, 288, 1, 1]), "should be [32, 32, 3, 3] and is"),
    "negative shape": (entry(shape=[-32, -32, 3, 3]), "has the shape"),
    "shape of texts": (entry(shape=["32"]), "has the shape"),
    "immense shape": (entry(shape=[2**62, 2**62]), "takes"),
    "empty entry": (lambda header: header.update({NAME: []}), "has no dtype, shape"),
    "renamed": (lambda header: header.update({"x": header.pop(NAME)}), f"{NAME} should be"),
    "odd metadata": (lambda header: header.update({"extra": None}), "has no dtype, shape"),
    "twice": (twice, "it has the key 'conv_in.bias' twice"),
    "null": (lambda header: b"null", "it is no JSON object"),
    "deep": (lambda header: b'{"a":' * 9000 + b"1" + b"}" * 9000, "nested deeper"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_damaged_header_is_said_before_anything_is_built(copy, case):
    change, message = HEADERS[case]
    write_header(copy / "unet" / DIFFUSERS, change)
    refused(copy, message, str(copy / "unet"))


def test_tensors_that_overlap_or_leave_a_gap_are_refused(copy):
    path = copy / "unet" / DIFFUSERS

    def overlap(header):
        header[TWIN]["data_offsets"] = header[NAME]["data_offsets"]

    content = path.read_bytes()
    write_header(path, overlap)
    refused(copy, "overlaps the one before", str(path))
    path.write_bytes(content)
    write_header(path, lambda header: header.pop(NAME) and None)
    refused(copy, "leaves a gap before it", str(path))


@pytest.mark.parametrize("change", [lambda content: content[:-9], lambda content: content + b"x"])
def test_a_file_of_another_length_than_its_header_says_is_refused(copy, change):
    path = copy / "vae" / DIFFUSERS
    path.write_bytes(change(path.read_bytes()))
    refused(copy, str(path), "bytes long where its header asks for")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "../unet/diffusion_pytorch_model.fp16.safetensors"}, "only safetensors files besi"),
        ({"a": "/etc/passwd"}, "only safetensors files beside it are read"),
        ({"a": ".."}, "only safetensors files beside it are read"),
        ({"a": "C:\\model.safetensors"}, "only safetensors files beside it are read"),
        ({"a": "\0.safetensors"}, "only safetensors files beside it are read"),
        ({"a": "x" * 300 + ".safetensors"}, "only safetensors files beside it are read"),
        ({"a": None}, "only safetensors files beside it are read"),
        ({"a": "gone.safetensors"}, "gone.safetensors"),
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
    ],
)
def test_an_index_names_files_beside_it(copy, files, message):
    index = copy / "text_encoder" / INDEX
    index.write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    refused(copy, message, "text_encoder")


def test_a_tensor_in_two_shards_is_refused(copy):
    folder = copy / "text_encoder"
    tensors = load_file(folder / "model.fp16.safetensors")
    save_file(tensors, folder / "other.safetensors")
    names = dict.fromkeys(tensors, "model.fp16.safetensors") | {
        next(iter(tensors)): "other.safetensors"
    }
    (folder / INDEX).write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    refused(copy, "which model.fp16.safetensors holds too")


def test_links_of_a_hubs_cache_are_followed(copy, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(copy.rglob("*.*"))):
        if path.is_file():
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
    assert opened(copy).family.name == "sd15"
