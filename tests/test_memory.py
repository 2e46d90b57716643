import importlib.util

import pytest

from storyboard import Settings
from storyboard.errors import ResourceError, SettingsError
from storyboard.models import bases, memory

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "batch", "checkpointing", "text_on_cpu", "tiling"),
    [
        (79, 4, False, False, False),
        (23, 4, True, False, False),
        (15, 4, True, False, False),
        (11.5, 4, True, True, True),
        (8, 1, True, True, True),
    ],
)
def test_a_smaller_card_is_used_more_sparingly(free, batch, checkpointing, text_on_cpu, tiling):
    settings = Settings(base="kolors")
    plan = memory.plan(bases.get("kolors"), settings, free=free * GIB)
    assert (
        plan.train_micro_batch_size,
        plan.gradient_checkpointing,
        plan.text_encoder_on_cpu,
        plan.vae_tiling,
    ) == (batch, checkpointing, text_on_cpu, tiling)
    assert plan.device == "cuda" and plan.precision == "bf16" and plan.precision in str(plan)


def test_a_small_base_is_kept_in_fp32_and_draws_the_cpus_pictures():
    mini = bases.get("mini")
    small_card = memory.plan(mini, Settings(base="mini"), free=6 * GIB)
    assert small_card.precision == "fp32" and (
        small_card.train_micro_batch_size,
        small_card.render_micro_batch_size,
    ) == (6, 4)
    assert not (
        small_card.gradient_checkpointing
        or small_card.text_encoder_on_cpu
        or small_card.offload
        or small_card.vae_tiling
    )
    assert (
        memory.plan(mini, Settings(base="mini", precision="bf16"), free=23 * GIB).precision
        == "bf16"
    )


def test_steps_are_replayed_where_their_activations_fit_twice():
    kolors = bases.get("kolors")

    def graphs(free, **changes):
        settings = Settings(base="kolors", **changes)
        return memory.plan(kolors, settings, free=free * GIB).cuda_graphs

    assert graphs(79) and not graphs(40) and graphs(40, train_batch_size=1)
    assert (
        not graphs(79, gradient_checkpointing=True)
        and not graphs(79, precision="fp16")
        and not graphs(139, precision="fp32")
    )


def test_what_the_user_names_is_taken():
    named = {
        "gradient_checkpointing": True,
        "text_encoder_on_cpu": True,
        "offload": True,
        "vae_tiling": True,
    }
    plan = memory.plan(
        bases.get("sdxl"),
        Settings(base="sdxl", precision="fp16", train_batch_size=2, **named),
        free=79 * GIB,
    )
    assert (
        plan.precision == "fp16"
        and plan.train_micro_batch_size == 2
        and all(getattr(plan, name) for name in named)
    )
    small = memory.plan(
        bases.get("sdxl"), Settings(base="sdxl", **dict.fromkeys(named, False)), free=7 * GIB
    )
    assert not any(getattr(small, name) for name in named)


def test_the_cpu_is_used_in_fp32_as_asked():
    settings = Settings(base="mini", train_batch_size=3)
    plan = memory.plan(bases.get("mini"), settings)
    assert (plan.device, plan.precision, plan.train_micro_batch_size, plan.offload) == (
        "cpu",
        "fp32",
        3,
        False,
    )


def test_a_card_that_is_too_small_is_said_before_anything_is_fetched():
    with pytest.raises(
        ResourceError, match=r"needs about 8 GiB of the card's memory, and 6.0 are free"
    ):
        memory.check(bases.get("kolors"), Settings(base="kolors"), free=6 * GIB)
    memory.check(bases.get("sd15"), Settings(base="sd15"), free=6 * GIB)
    memory.check(bases.get("kolors"), Settings(base="kolors"), free=12 * GIB)


def test_a_large_base_without_a_card_is_said_before_anything_is_fetched():
    with pytest.raises(ResourceError, match="base='sdxl' needs a CUDA card.*base=\"mini\""):
        memory.check(bases.get("sdxl"), Settings(base="sdxl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "precision='int8'"),
        ({"gradient_checkpointing": 2}, "gradient_checkpointing=2"),
        ({"offload": 1}, "offload=1"),
        ({"vae_tiling": "yes"}, "vae_tiling='yes'"),
        ({"text_encoder_bits": 6}, "text_encoder_bits=6"),
    ],
)
def test_settings_of_memory_are_checked(change, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**change)


@pytest.fixture
def bitsandbytes(tmp_path, monkeypatch):
    """A package of that name: whether it is there is all that a plan asks."""
    (tmp_path / "bitsandbytes.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_quantised_text_encoder_stays_on_the_card(bitsandbytes):
    kolors = bases.get("kolors")
    on_cpu = [
        memory.plan(
            kolors, Settings(base="kolors", text_encoder_bits=bits), free=11.5 * GIB
        ).text_encoder_on_cpu
        for bits in (None, 8, 4)
    ]
    assert on_cpu == [True, False, False]


def test_a_quantised_text_encoder_needs_a_card(bitsandbytes):
    for changes, free in (({}, None), ({"text_encoder_on_cpu": True}, 79 * GIB)):
        with pytest.raises(SettingsError, match="text_encoder_bits=4 needs a CUDA card"):
            memory.plan(
                bases.get("kolors"),
                Settings(base="kolors", text_encoder_bits=4, **changes),
                free=free,
            )


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_a_quantised_text_encoder_without_its_library_is_one_sentence():
    with pytest.raises(SettingsError, match="text_encoder_bits=8 needs bitsandbytes"):
        memory.plan(
            bases.get("kolors"), Settings(base="kolors", text_encoder_bits=8), free=79 * GIB
        )
