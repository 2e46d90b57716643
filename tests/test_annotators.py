"""Maps for ControlNets: edges, colours, and those by models of transformers."""

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard.errors import SettingsError
from storyboard.rendering import annotators, palettes
from storyboard.rendering.edges import agreement, edges
from storyboard.rendering.references import square
from tests.conftest import picture


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "sketch.png"
    picture(3).save(path)
    return path


def test_controlnet_maps(sketch, tmp_path):
    image = square(sketch, 64)
    colour = np.asarray(annotators.make(image, "colour"))
    assert (
        np.ptp(colour.reshape(8, 8, 8, 8, 3), axis=(1, 3)).max() == 0
        and abs(colour.mean() - np.asarray(image).mean()) < 1
    )
    line = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    line.paste("black", (100, 0, 200, 100))
    line.save(tmp_path / "line.png")
    found = edges(
        np.asarray(square(tmp_path / "line.png", 64))
    )  # the clear half is white, the middle stays
    assert found[:, 30:34].any(1).all() and not found[:, :28].any() and not found[:, 36:].any()
    assert (
        agreement(found, found, 0) == 1
        and agreement(found, np.roll(found, 3, 1), 2) == 0
        and agreement(found, np.roll(found, 2, 1), 2) == 1
    )


def test_controlnet_depth_map_by_a_model_of_transformers(sketch, tmp_path):
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(tmp_path)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    found = np.asarray(annotators.make(square(sketch, 64), "depth", tmp_path))
    assert found.shape == (64, 64) and found.min() == 0 and found.max() == 255
    config.update({"num_hidden_layers": 5})  # one more than there are weights for
    config.save_pretrained(tmp_path)
    with pytest.raises(
        SettingsError,
        match="is no model for DepthEstimation .*is missing.*: name another annotator",
    ):
        annotators.make(square(sketch, 64), "depth", tmp_path)


def test_controlnet_segments_in_the_colours_of_ade20k(sketch, tmp_path):
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
    )

    image = square(sketch, 64)
    small = {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 16,
    }
    for labels in (150, 3):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SegformerForSemanticSegmentation(
                SegformerConfig(**small, num_labels=labels)
            ).eval()
        model.save_pretrained(tmp_path / str(labels))
        SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(
            tmp_path / str(labels)
        )
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "150").eval()
    with torch.no_grad():
        logits = model(
            **SegformerImageProcessor.from_pretrained(tmp_path / "150")(
                images=image, return_tensors="pt"
            )
        ).logits
    classes = (
        torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
        .argmax(1)[0]
        .numpy()
    )
    found = np.asarray(annotators.make(image, "segmentation", tmp_path / "150"))
    assert (found == palettes.ADE20K[classes]).all() and len(np.unique(classes)) > 1
    assert (
        len(palettes.ADE20K) == 150
        and tuple(palettes.ADE20K[12]) == (150, 5, 61)
        and tuple(palettes.ADE20K[-1]) == (92, 0, 255)
    )  # person, flag
    with pytest.raises(SettingsError, match="tells 3 classes apart"):
        annotators.make(image, "segmentation", tmp_path / "3")
    with pytest.raises(SettingsError, match="is no model for DepthEstimation"):
        annotators.make(image, "depth", tmp_path / "150")


def test_controlnet_draws_openposes_skeleton(sketch, tmp_path):
    from transformers import (
        VitPoseBackboneConfig,
        VitPoseConfig,
        VitPoseForPoseEstimation,
        VitPoseImageProcessor,
    )

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        out_indices=[1],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        VitPoseForPoseEstimation(
            VitPoseConfig(backbone_config=backbone, num_labels=17, scale_factor=4)
        ).save_pretrained(tmp_path)
    VitPoseImageProcessor(size={"height": 64, "width": 48}).save_pretrained(tmp_path)
    image = square(sketch, 128)
    assert annotators.make(image, "pose", tmp_path).size == (128, 128)  # random weights: anything
    with pytest.raises(SettingsError, match="finds nobody in the picture"):
        annotators.skeleton([None] * 18, (128, 128))
    points = [(64.0, 20.0), (64.0, 40.0), (48.0, 40.0), None, (20.0, 90.0), *[None] * 13]
    drawn = np.asarray(annotators.skeleton(points, (128, 128)))

    def at(x, y):
        return tuple(drawn[y, x])

    assert (
        at(64, 20) == (255, 0, 0)
        and at(64, 40) == (255, 85, 0)
        and at(48, 40) == (255, 170, 0)
        and at(20, 90) == (170, 255, 0)
    )
    assert at(56, 40) == (153, 0, 0) and at(64, 30) == (
        0,
        0,
        153,
    )  # neck to right shoulder, neck to nose
    assert (
        at(34, 65) == (0, 0, 0) and (drawn.reshape(-1, 3).any(1)).mean() < 0.02
    )  # no elbow, no limb


def test_controlnet_pose_reads_a_heatmap_where_the_points_are(sketch, tmp_path, monkeypatch):
    import transformers

    points = torch.zeros(1, 17, 64, 48)
    for place in range(17):
        points[0, place, 3 * place + 5, 2 * place + 6] = 1.0
    processor = transformers.VitPoseImageProcessor()
    monkeypatch.setattr(
        annotators,
        "_load",
        lambda kind, folder: (
            lambda **inputs: transformers.models.vitpose.modeling_vitpose.VitPoseEstimatorOutput(
                heatmaps=points
            ),
            processor,
        ),
    )
    seen = {}
    monkeypatch.setattr(
        annotators,
        "skeleton",
        lambda found, size: seen.update(found=found, size=size) or Image.new("RGB", size),
    )
    annotators.make(square(sketch, 128), "pose", tmp_path)
    assert seen["size"] == (128, 128) and len(seen["found"]) == 18 and all(seen["found"])
    left, right, neck = (np.array(seen["found"][place]) for place in (5, 2, 1))
    assert (
        np.allclose(neck, (left + right) / 2) and seen["found"][0][1] < seen["found"][10][1]
    )  # the nose above the ankle
