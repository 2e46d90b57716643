"""The records of a story's panels, before they are drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storyboard import artifacts
from storyboard.lora.file import data_digest, has_text_encoder
from storyboard.models import bases
from storyboard.models.base import Base
from storyboard.models.run import Run
from storyboard.records import BaseRecord, LoraRecord, PanelRecord
from storyboard.story import Story

if TYPE_CHECKING:
    from storyboard.rendering.character import Character
    from storyboard.rendering.references import PreparedReference

PACKAGES = ("torch", "diffusers", "peft", "transformers", "compel", "pillow")


def panel_records(
    run: Run,
    story: Story,
    lora: Path | None = None,
    *,
    references: "Sequence[PreparedReference | None]" = (),
    character: "Character | None" = None,
) -> list[PanelRecord]:
    """A record for each panel of ``story``.

    Args:
        references: What each panel follows; () where none follows anything.
        character: How panels keep the character; None where none does.
    """
    base = base_record(run.base, run.base_fingerprint)
    lora_facts = lora_record(lora, run.lora_strength) if lora else None
    versions = artifacts.versions(*PACKAGES)

    records: list[PanelRecord] = []
    for index, panel in enumerate(story.resolved(run.seed)):
        prepared = references[index] if references else None
        record = PanelRecord(
            prompt=panel.prompt,
            negative_prompt=panel.negative_prompt,
            seed=panel.seed,
            width=run.resolution,
            height=run.resolution,
            steps=run.num_inference_steps,
            guidance_scale=run.guidance_scale,
            guidance_end=run.guidance_end,
            schedule_type=run.base.schedule_type,
            precision=run.plan.precision,
            text_encoder_bits=run.text_encoder_bits,
            text_encoder_on_cpu=run.plan.text_encoder_on_cpu,
            clip_skip=run.clip_skip,
            base=base,
            lora=lora_facts,
            reference=prepared.record if prepared else None,
            versions=versions,
        )
        if character:
            record = character.record(record, index, records[0] if records else record)
        records.append(record)
    return records


def base_record(base: Base, fingerprint: str) -> BaseRecord:
    """What records say of ``base``."""
    is_own_folder = base.checkpoint is None and base.name not in bases.names()
    return BaseRecord(
        name=base.name,
        family=base.family.name,
        pipeline=base.family.pipeline,
        fingerprint=fingerprint,
        prediction_type=base.prediction_type,
        zero_terminal_snr=base.zero_terminal_snr,
        layout="diffusers" if is_own_folder else None,
    )


def lora_record(path: Path, strength: float = 1.0) -> LoraRecord:
    """What records say of the LoRA file at ``path``, drawn with at ``strength``."""
    return LoraRecord(
        digest=artifacts.digest_of_file(path),
        tensors_digest=data_digest(path),
        strength=strength,
        text_encoder=has_text_encoder(path),
    )
