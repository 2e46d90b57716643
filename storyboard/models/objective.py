"""What a UNet predicts, and on which noise schedule: by a folder's config or a file's keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from storyboard.errors import BaseError
from storyboard.models.safetensors_header import metadata, read_header

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
PREDICTION_TYPES = {  # what modelspec.prediction_type and scheduler_config.json call them
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
EDM_KEYS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")  # Playground v2.5, CosXL
V_PREDICTION_KEY = "v_pred"
ZERO_TERMINAL_SNR_KEY = "ztsnr"
ONLY_DISCRETE = "only discrete schedules with scaled_linear betas are supported"
ONLY_PREDICTIONS = "only epsilon and v_prediction are supported"


def of_folder(path: Path, schedule: Mapping[str, object]) -> tuple[str, bool]:
    """``prediction_type``, and whether the SNR ends at zero, by ``scheduler_config.json``.

    Raises:
        BaseError: It was trained on another kind of noise schedule.
    """
    scheduler = str(schedule.get("_class_name", ""))
    prediction = schedule.get("prediction_type", "epsilon")
    betas = schedule.get("beta_schedule", "scaled_linear")

    if "EDM" in scheduler:
        _refuse(
            path,
            f"has an EDM schedule ({scheduler} in {SCHEDULER_CONFIG}; "
            "Playground v2.5 and CosXL have one)",
            ONLY_DISCRETE,
        )
    flow = "Flow" in scheduler or schedule.get("use_flow_sigmas")
    if flow or prediction == "flow_prediction":
        _refuse(
            path,
            f"was trained by flow matching ({scheduler} in {SCHEDULER_CONFIG})",
            ONLY_DISCRETE,
        )
    if schedule.get("trained_betas") is not None:
        _refuse(
            path,
            f"has a noise schedule of its own (trained_betas in {SCHEDULER_CONFIG})",
            ONLY_DISCRETE,
        )
    if betas != "scaled_linear":
        _refuse(path, f"has the beta_schedule {betas!r} in {SCHEDULER_CONFIG}", ONLY_DISCRETE)
    if prediction not in PREDICTION_TYPES:
        _refuse(
            path,
            f"has the prediction_type {prediction!r} in {SCHEDULER_CONFIG}",
            ONLY_PREDICTIONS,
        )

    return _checked(
        path,
        PREDICTION_TYPES[prediction],
        bool(schedule.get("rescale_betas_zero_snr")),
        f"rescale_betas_zero_snr in {SCHEDULER_CONFIG}",
    )


def of_single_file(path: Path) -> tuple[str, bool]:
    """``prediction_type``, and whether the SNR ends at zero, of a checkpoint in one file.

    By its keys ``v_pred`` and ``ztsnr``, which ComfyUI (comfy/supported_models.py) and the web UIs
    go by too, else by its modelspec: a merge keeps the metadata of its parts.

    Raises:
        BaseError: It was trained on another kind of noise schedule.
    """
    names = read_header(path).keys()
    prediction = metadata(path).get("modelspec.prediction_type") or "epsilon"

    for key in EDM_KEYS:
        if key in names:
            _refuse(
                path,
                f"has an EDM schedule (the key {key}; Playground v2.5 and CosXL have one)",
                ONLY_PREDICTIONS,
            )
    if V_PREDICTION_KEY in names:
        prediction = "v_prediction"
    if prediction.lower() not in PREDICTION_TYPES:
        _refuse(path, f"has the modelspec.prediction_type {prediction!r}", ONLY_PREDICTIONS)

    return _checked(
        path,
        PREDICTION_TYPES[prediction.lower()],
        ZERO_TERMINAL_SNR_KEY in names,
        f"the key {ZERO_TERMINAL_SNR_KEY}",
    )


def _checked(path: Path, prediction: str, zero_terminal_snr: bool, source: str) -> tuple[str, bool]:
    """Both as they are, unless noise is predicted where the input is nothing but noise.

    See https://arxiv.org/abs/2305.08891, section 3.2.
    """
    if zero_terminal_snr and prediction == "epsilon":
        _refuse(
            path,
            f"predicts epsilon on a schedule with zero terminal SNR ({source}), "
            "where that says nothing of the picture",
            "only v_prediction goes with it",
        )
    return prediction, zero_terminal_snr


def _refuse(path: Path, reason: str, supported: str) -> NoReturn:
    raise BaseError(f"base={str(path)!r} {reason}: {supported}.")
