"""LoHa, LoKr and Tucker cores: the same change to the weights as their makers' own formulas."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard import convert, import_lora, merge
from storyboard.errors import LoraError
from storyboard.lora import assembling, attaching
from storyboard.lora.names import kohya_name, module_path, path_of
from storyboard.models import bases
from storyboard.models import loading as models
from tests.lora_kinds import (
    ALPHA,
    KERNEL,
    LINEAR,
    ONE,
    loha,
    loha_of_high_rank,
    loha_with_cores,
    lokr,
    lokr_in_halves,
    lokr_whole,
    lokr_with_core,
    normal,
    tucker,
)

EVERYWHERE = (loha, loha_of_high_rank, lokr, lokr_in_halves, lokr_whole)
OF_KERNELS = (tucker, loha_with_cores, lokr_with_core)
CASES = [(make, name) for make in EVERYWHERE for name in (LINEAR, KERNEL, ONE)]
CASES += [(make, KERNEL) for make in OF_KERNELS]


def layers(base):
    return dict(models.skeleton(base, "unet").named_modules())


def of_kind(base, make, name, form="kohya"):
    """The tensors of a file that changes one module, and the change."""
    parts, change = make(layers(base)[name].weight.shape)
    prefix = kohya_name(module_path("unet", name), base.family)
    prefix = {"kohya": prefix, "dotted": f"unet.{name}", "OneTrainer": f"lora_unet.{name}"}[form]
    tensors = {f"{prefix}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    tensors[f"{prefix}.alpha"] = torch.tensor(ALPHA)
    return tensors, change.reshape(layers(base)[name].weight.shape)


def change_of(path, name, base):
    """The change to a module of the UNet that a file in kohya's form makes."""
    key, tensors = kohya_name(module_path("unet", name), base.family), load_file(path)
    assert tensors.keys() == {
        f"{key}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
    assert down.shape[1:] == layers(base)[name].weight.shape[1:]
    scale = float(tensors[f"{key}.alpha"]) / len(down)
    return (up.flatten(1).double() @ down.flatten(1).double() * scale).float()


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), CASES)
def test_the_change_is_its_makers(hub, make_settings, tmp_path, capsys, make, name):
    base, path = hub("sd15"), tmp_path / "theirs.safetensors"
    tensors, change = of_kind(base, make, name)
    save_file(tensors, path)
    imported = import_lora(path, make_settings(base="sd15"))
    assert torch.allclose(change_of(imported, name, base).view_as(change), change, atol=1e-5)
    assert change.abs().max() > 0.01
    kind = {"t": "a LoCon with a Tucker core", "loh": "a LoHa", "lok": "a LoKr"}
    expected = next(title for start, title in kind.items() if make.__name__.startswith(start))
    assert f"theirs.safetensors is {expected}: it is kept as the plain LoRA" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dotted", "OneTrainer"])
@pytest.mark.parametrize("make", [tucker, loha, lokr])
def test_every_form_holds_every_kind(hub, make_settings, tmp_path, form, make):
    base, path = hub("sd15"), tmp_path / "theirs.safetensors"
    tensors, change = of_kind(base, make, KERNEL, form)
    save_file(tensors, path)
    imported = import_lora(path, make_settings(base="sd15"))
    assert torch.allclose(change_of(imported, KERNEL, base).view_as(change), change, atol=1e-5)


@pytest.mark.slow
def test_another_alpha_counts_by_the_files_rank(hub, make_settings, tmp_path):
    base, path = hub("sd15"), tmp_path / "theirs.safetensors"
    for make in (tucker, loha, lokr):
        tensors, change = of_kind(base, make, KERNEL)
        save_file(tensors, path)
        imported = import_lora(path, make_settings(base="sd15"), alpha=2 * ALPHA)
        ours = change_of(imported, KERNEL, base).view_as(change)
        assert torch.allclose(ours, 2 * change, atol=1e-5)


@pytest.mark.slow
def test_a_kind_in_kohyas_form_attaches_converts_and_merges(hub, make_settings, tmp_path):
    """Without import_lora, as its names are those that are attached."""
    base, path = hub("sd15"), tmp_path / "theirs.safetensors"
    tensors, expected = {}, {}
    for make, name in ((loha, LINEAR), (tucker, KERNEL), (lokr, ONE)):
        of_one, expected[name] = of_kind(base, make, name)
        tensors |= of_one
    save_file(tensors, path)

    pipe = models.pipeline(base, unet=models.load(base, "unet", torch.float32))
    before = {name: layers_of(pipe)[name].weight.clone() for name in expected}
    assert attaching.attach(pipe, base, path) == 3
    for name, change in expected.items():
        layer = layers_of(pipe)[name]
        layer.merge()
        difference = layer.get_base_layer().weight - before[name]
        assert torch.allclose(difference, change, atol=1e-5)

    back = convert(convert(path, "diffusers"), "kohya", tmp_path / "back.safetensors")
    assert {path_of(key.partition(".")[0]) for key in load_file(back)} == {
        module_path("unet", name) for name in expected
    }
    merged = bases.get(str(merge(path, make_settings(base="sd15"))))
    weights = models.load(merged, "unet", torch.float32).state_dict()
    for name, change in expected.items():
        assert torch.allclose(weights[f"{name}.weight"] - before[name], change, atol=2e-3)


def layers_of(pipe):
    return dict(pipe.unet.named_modules())


@pytest.mark.parametrize(
    ("make", "spoil", "message"),
    [
        (loha, lambda t: t.pop("hada_w2_b"), "lacks 1 tensors .*hada_w2_b"),
        (loha, lambda t: t.update(hada_t1=normal(3, 3, 3, 3)), "lacks 1 tensors .*hada_t2"),
        (loha, lambda t: t.update(hada_w2_a=normal(7, 3)), "matrices that do not go together"),
        (loha, lambda t: t.update(hada_w1_a=normal(5)), "matrices that do not go together"),
        (loha, lambda t: t.update({"lora_up.weight": normal(3, 3)}), "do not go with the others"),
        (lokr, lambda t: t.pop("lokr_w1"), "lacks 2 tensors .*lokr_w1_a"),
        (lokr, lambda t: t.update(lokr_w1_a=normal(4, 3)), "do not go with the others"),
        (lokr, lambda t: t.update(lokr_w2_b=normal(4, 3)), "matrices that do not go together"),
        (lokr, lambda t: t.update(lokr_w1=normal(5, 3)), "does not fit the base 'sd15'"),
        (tucker, lambda t: t.pop("lora_down.weight"), "lacks 1 tensors .*lora_down"),
        (
            tucker,
            lambda t: t.update({"lora_mid.weight": normal(4, 4, 3, 3)}),
            "matrices that do not go together",
        ),
        (tucker, lambda t: t.update({"lora_mid.weight": normal(3)}), "do not go together"),
        (loha, lambda t: t.update(dora_scale=normal(1, 3)), "is a DoRA"),
        (loha, lambda t: t.update(hada_w1_b=t["hada_w1_b"] * torch.nan), "not finite"),
    ],
)
def test_what_is_not_whole_is_named(hub, make_settings, tmp_path, make, spoil, message):
    base, path = hub("sd15"), tmp_path / "odd.safetensors"
    parts, _ = make(layers(base)[KERNEL].weight.shape)
    spoil(parts)
    prefix = kohya_name(module_path("unet", KERNEL), base.family)
    save_file({f"{prefix}.{part}": tensor for part, tensor in parts.items()}, path)
    with pytest.raises(LoraError, match=message) as error:
        import_lora(path, make_settings(base="sd15"))
    assert "\n" not in str(error.value) and "odd.safetensors" in str(error.value)


def test_a_kind_that_would_become_too_large_is_refused(hub, make_settings, tmp_path, monkeypatch):
    base, path = hub("sd15"), tmp_path / "large.safetensors"
    tensors, _ = of_kind(base, lokr_whole, LINEAR)
    save_file(tensors, path)
    monkeypatch.setattr(assembling, "LARGEST", 1000)
    with pytest.raises(LoraError, match="is a LoKr whose changes, as matrices of a plain LoRA"):
        import_lora(path, make_settings(base="sd15"))
