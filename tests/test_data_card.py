"""The data card holds no path of this machine, whatever the settings and the LoRA say."""

import pytest
import torch
from safetensors.torch import save_file

from storyboard.exporting import data_card


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("sample", "sample"),
        ("AI-ModelScope/lowres_anime", "AI-ModelScope/lowres_anime"),
        ("../pictures", "own pictures"),
        ("/home/me/pictures", "own pictures"),
        ("me/" + "x" * 200, "own pictures"),
    ],
)
def test_a_data_set_is_named_by_its_id_alone(make_settings, dataset, name):
    assert data_card.dataset_name(make_settings(dataset=dataset)) == name


@pytest.mark.parametrize(
    ("value", "count"), [("343", 343), ("0", None), ("many", None), ("9" * 5000, None), ("", None)]
)
def test_a_loras_count_of_pictures_may_be_anything(make_settings, tmp_path, value, count):
    lora = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(1)}, lora, metadata={"ss_num_train_images": value})
    assert data_card.build(make_settings(), lora, None)["trained_on"] == count
