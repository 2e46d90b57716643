"""What a LoRA file says of itself, in the names of kohya's tools and of modelspec."""

import json
from collections import Counter

from storyboard.data.captions import Captions
from storyboard.models.run import Run
from storyboard.training.hyperparameters import Hyperparameters


def metadata(captions: Captions, run: Run, steps: int) -> dict[str, object]:
    """``ss_*`` as kohya's sd-scripts write it, ``modelspec.*`` of Stability's specification.

    https://github.com/Stability-AI/ModelSpec. There is no date, so that files repeat.

    Args:
        steps: That the LoRA has been trained for.
    """
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": run.rank,
        "ss_network_alpha": run.alpha,
        "ss_base_model_version": run.base.kohya_name,
        "ss_output_name": "lora",
        "ss_resolution": f"({run.resolution}, {run.resolution})",
        "ss_steps": steps,
        "ss_learning_rate": run.learning_rate,
        "ss_seed": run.seed,
        "ss_batch_size_per_device": run.train_batch_size,
        "ss_num_train_images": len(captions),
        "ss_tag_frequency": json.dumps(
            {"storyboard": dict(_tags(captions).most_common())}, ensure_ascii=False
        ),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{run.base.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Storyboard LoRA",
        "modelspec.resolution": f"{run.resolution}x{run.resolution}",
        **_regularisation(run),
        **_objective(run),
        **_text_encoder(run),
    }


def _tags(captions: Captions) -> Counter[str]:
    """How often each tag stands in the captions; a tag ends at a comma, Chinese or not."""
    tags = Counter()
    for row in captions.rows:
        parts = (part.strip() for part in row.text.replace("，", ",").split(","))
        tags.update(part for part in parts if part)
    return tags


def _regularisation(run: Run) -> dict[str, object]:
    """What keeps the base's knowledge, in kohya's names; nothing where it is as usual."""
    facts: dict[str, object] = {}
    if run.prior_loss_weight:
        facts["ss_prior_loss_weight"] = run.prior_loss_weight
        facts["ss_num_reg_images"] = Hyperparameters.of(run).prior_pictures
    if run.caption_dropout != run.base.caption_dropout:
        facts["ss_caption_dropout_rate"] = run.caption_dropout
    return facts


def _objective(run: Run) -> dict[str, object]:
    if run.base.prediction_type != "v_prediction":
        return {}
    return {
        "ss_v2": False,
        "ss_v_parameterization": True,
        "ss_zero_terminal_snr": run.base.zero_terminal_snr,
        "modelspec.prediction_type": "v",
    }


def _text_encoder(run: Run) -> dict[str, object]:
    if not run.clip_skip:
        return {}
    return {"ss_clip_skip": run.clip_skip, "modelspec.encoder_layer": run.clip_skip}
