"""What a UNet predicts, and on which noise schedule: by a folder's config or a file's keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from storyboard.errors import BaseError, brief
from storyboard.models.base import Base
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
# diffusers' classes for discrete betas: any of them goes with a base, ours draws (``sampling.py``)
SCHEDULERS = {
    f"{name}Scheduler"
    for name in (
        "DDIM",
        "DDIMInverse",
        "DDIMParallel",
        "DDPM",
        "DDPMParallel",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverMultistepInverse",
        "DPMSolverSDE",
        "DPMSolverSinglestep",
        "EulerAncestralDiscrete",
        "EulerDiscrete",
        "HeunDiscrete",
        "KDPM2AncestralDiscrete",
        "KDPM2Discrete",
        "LCM",
        "LMSDiscrete",
        "PNDM",
        "SASolver",
        "TCD",
        "UniPCMultistep",
    )
}
FEWEST_TIMESTEPS, MOST_TIMESTEPS = 100, 10_000
ONLY_DISCRETE = "only discrete schedules with scaled_linear betas are supported"
ONLY_PREDICTIONS = "only epsilon and v_prediction are supported"


def of_folder(path: Path, schedule: Mapping[str, object]) -> tuple[str, bool]:
    """``prediction_type``, and whether the SNR ends at zero, by ``scheduler_config.json``.

    Raises:
        BaseError: It was trained on another kind of noise schedule.
    """
    scheduler = _text(path, schedule, "_class_name", "")
    prediction = _text(path, schedule, "prediction_type", "epsilon")
    betas = _text(path, schedule, "beta_schedule", "scaled_linear")

    if "EDM" in scheduler:
        _refuse(
            path,
            f"has an EDM schedule ({scheduler} in {SCHEDULER_CONFIG}; "
            "Playground v2.5 and CosXL have one)",
            ONLY_DISCRETE,
        )
    flow = "Flow" in scheduler or _switch(path, schedule, "use_flow_sigmas")
    if flow or prediction == "flow_prediction":
        _refuse(
            path,
            f"was trained by flow matching ({scheduler} in {SCHEDULER_CONFIG})",
            ONLY_DISCRETE,
        )
    if scheduler and scheduler not in SCHEDULERS:
        _refuse(path, f"has a {brief(scheduler)[1:-1]} in {SCHEDULER_CONFIG}", ONLY_DISCRETE)
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
        _switch(path, schedule, "rescale_betas_zero_snr"),
        f"rescale_betas_zero_snr in {SCHEDULER_CONFIG}",
    )


def betas_of_folder(
    path: Path, schedule: Mapping[str, object], usual: Base
) -> tuple[int, float, float]:
    """Timesteps, first and last beta of ``scheduler_config.json``; what it leaves out is usual.

    Raises:
        BaseError: One is of another type, or no schedule can have it.
    """
    timesteps = schedule.get("num_train_timesteps", usual.num_train_timesteps)
    start = schedule.get("beta_start", usual.beta_start)
    end = schedule.get("beta_end", usual.beta_end)
    if type(timesteps) is not int or not FEWEST_TIMESTEPS <= timesteps <= MOST_TIMESTEPS:
        _refuse(
            path,
            f"has num_train_timesteps={brief(timesteps)} in {SCHEDULER_CONFIG}",
            f"only {FEWEST_TIMESTEPS} to {MOST_TIMESTEPS:,} are supported",
        )
    if not (_is_beta(start) and _is_beta(end) and start < end):
        _refuse(
            path,
            f"has beta_start={brief(start)} and beta_end={brief(end)} in {SCHEDULER_CONFIG}",
            "betas rise between 0 and 1",
        )
    return timesteps, float(start), float(end)


def _is_beta(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 1


def _switch(path: Path, schedule: Mapping[str, object], key: str) -> bool:
    value = schedule.get(key)
    if not isinstance(value, bool | None):
        _refuse(path, f"has {key}={brief(value)} in {SCHEDULER_CONFIG}", "it is true or false")
    return bool(value)


def _text(path: Path, schedule: Mapping[str, object], key: str, default: str) -> str:
    value = schedule.get(key)
    if not isinstance(value, str | None):
        _refuse(path, f"has {key}={brief(value)} in {SCHEDULER_CONFIG}", "it is a text")
    return default if value is None else value


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
