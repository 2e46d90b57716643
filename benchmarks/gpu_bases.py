"""Bases of full size with random weights, and runs on them, for ``benchmarks.gpu``."""

import os
import time
from collections.abc import Sequence

from benchmarks import full_size_models
from benchmarks.rendering_contenders import Prompt
from storyboard.models.base import Base
from storyboard.models.run import Run, run_on

NEGATIVE = "模糊，低质量"


def fetched(card, name: str) -> Base:
    """The base ``name``; its weights are written below ``card.work``, as if a hub sent them."""
    from storyboard.models import bases, weights

    hub = card.work / "hub"
    os.environ["STORYBOARD_HUB"] = str(hub)
    if not (hub / bases.get(name).modelscope).is_dir():
        began = time.perf_counter()
        if card.dry:
            from tests import tiny

            tiny.build(name, hub)
        else:
            full_size_models.write(name, hub, "cuda")
        card.note(f"{name}: random weights made and written", time.perf_counter() - began, "s")
    return weights.fetch(bases.get(name))


def run(card, base: Base, **changes: object) -> Run:
    """What a person would set for ``base`` on this card; in tiny where it is dry."""
    from storyboard import Settings

    # bf16 as on a card, where a part of another type ends in an exception
    dry = {"resolution": 64, "num_inference_steps": 3, "precision": "bf16"}
    tiny = dry if card.dry else {}
    defaults = {"output": str(card.work / "runs" / base.name)} | tiny
    return run_on(base, Settings(base=base.name, **(defaults | changes)))


def prompts(count: int) -> list[Prompt]:
    """Different prompts with seeds from 1."""
    return [
        Prompt(f"二次元，紫色短发女孩，第{number}格，白色衣服，教室，微笑", NEGATIVE, number)
        for number in range(1, count + 1)
    ]


def story(panels: Sequence[Prompt]):
    """A story of ``panels``."""
    from storyboard import Panel, Story

    return Story([Panel(panel.text, panel.negative, panel.seed) for panel in panels])
