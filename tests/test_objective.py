"""Noise schedules and predictions of folders and single files, and those that are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import BaseError
from storyboard.models import bases, weights
from tests import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "modelspec", "expected"),
    [
        (("v_pred", "ztsnr"), None, ("v_prediction", True)),
        (
            ("v_pred",),
            "epsilon",
            ("v_prediction", False),
        ),  # a merge keeps the metadata of its parts: the key is what other programs go by
        ((), "v", ("v_prediction", False)),
        (("ztsnr",), "v", ("v_prediction", True)),
        ((), "epsilon", ("epsilon", False)),
        ((), None, ("epsilon", False)),
    ],
)
def test_a_single_file_says_what_it_predicts_and_so_does_its_folder(
    single, keys, modelspec, expected
):
    path, folder = single("sd15", **{key: torch.tensor([]) for key in keys})
    if modelspec:
        save_file(load_file(path), path, metadata={"modelspec.prediction_type": modelspec})
    base = weights.fetch(bases.get(str(path)))
    assert (base.prediction_type, base.zero_terminal_snr) == expected
    again = bases.get(str(base.folder))  # what was converted may be given as a folder
    assert (again.prediction_type, again.zero_terminal_snr) == expected
    schedule = base.folder / "scheduler" / "scheduler_config.json"
    assert (
        schedule.read_bytes() == (folder / "scheduler" / "scheduler_config.json").read_bytes()
    ) == (expected[0] == "epsilon")


@pytest.mark.parametrize(
    ("keys", "modelspec", "message"),
    [
        (("edm_mean", "edm_std"), None, r"has an EDM schedule \(the key edm_mean"),
        (
            ("edm_vpred.sigma_max", "v_pred"),
            None,
            r"has an EDM schedule \(the key edm_vpred.sigma_max",
        ),
        ((), "flow", "has the modelspec.prediction_type 'flow'"),
        (
            ("ztsnr",),
            None,
            r"predicts epsilon on a schedule with zero terminal SNR \(the key ztsnr\)",
        ),
    ],
)
def test_a_single_file_of_another_kind_of_schedule_is_refused_by_name(
    single, keys, modelspec, message
):
    path, _ = single("sdxl", **{key: torch.zeros(1) for key in keys})
    if modelspec:
        save_file(load_file(path), path, metadata={"modelspec.prediction_type": modelspec})
    with pytest.raises(BaseError, match=message) as error:
        bases.get(str(path))
    assert "\n" not in str(error.value)


# scheduler_config.json of Playground v2.5 and others, and what is said of each
SCHEDULES = {
    "edm": (
        {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "prediction_type": "epsilon",
            "sigma_data": 0.5,
        },
        "has an EDM schedule",
    ),
    "edm euler": (
        {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
        "has an EDM schedule",
    ),
    "flow": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        "was trained by flow matching",
    ),
    "flow sigmas": (
        {
            "_class_name": "UniPCMultistepScheduler",
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
        },
        "was trained by flow matching",
    ),
    "trained betas": (
        {"_class_name": "DDIMScheduler", "trained_betas": [0.1] * 1000},
        "trained_betas in scheduler/scheduler_config.json",
    ),
    "linear": (
        {
            "_class_name": "DDIMScheduler",
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
        },
        "has the beta_schedule 'linear'",
    ),
    "cosine": (
        {
            "_class_name": "DDPMScheduler",
            "beta_schedule": "squaredcos_cap_v2",
            "trained_betas": None,
        },
        "has the beta_schedule 'squaredcos_cap_v2'",
    ),
    "sample": (
        {"_class_name": "EulerDiscreteScheduler", "prediction_type": "sample"},
        "has the prediction_type 'sample'",
    ),
    "epsilon to zero": (
        {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
        "predicts epsilon on a schedule with zero terminal SNR",
    ),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_folder_of_another_kind_of_schedule_is_refused_by_name(hub, tmp_path, case):
    changes, message = SCHEDULES[case]
    target, file = tmp_path / "edited", "scheduler/scheduler_config.json"
    folder = tiny.edited(hub("sdxl"), target, file, changes)
    with pytest.raises(BaseError, match=message) as error:
        bases.get(str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
