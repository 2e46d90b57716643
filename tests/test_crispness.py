"""The share of a picture that is smudged, and the distance of patches, against blur and the eye."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from benchmarks import crispness as benchmark
from storyboard import Settings, clean, collect, score
from storyboard.scoring import crispness
from storyboard.scoring.scores import Unmeasurable
from storyboard.seals import sealed
from tests.conftest import picture
from tests.scored import pictures_of
from tools.card import patches

RANKED = Path(__file__).parent / "crispness"  # ten of forty panels, ranked by eye before measuring
SIZE = (256, 256)


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    """The cleaned sample set."""
    settings = Settings(output=str(tmp_path_factory.mktemp("crispness")))
    return clean(collect(settings), settings).captions


@pytest.fixture(scope="module")
def training_pictures(training_set):
    """Paths of the training pictures, in order."""
    return [training_set.path(row) for row in training_set.rows]


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def with_bleeding_colours(image: Image.Image, radius: float) -> Image.Image:
    """``image`` whose colours are blurred and whose brightness is not."""
    brightness, *colours = image.convert("YCbCr").split()
    return Image.merge("YCbCr", [brightness, *(blurred(each, radius) for each in colours)]).convert(
        "RGB"
    )


def smudged_in_places(image: Image.Image, radius: float) -> Image.Image:
    """``image`` with blur in a band across its middle alone."""
    box = (0, 96, 256, 160)
    spoilt = image.copy()
    spoilt.paste(blurred(image.crop(box), radius), box[:2])
    return spoilt


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("spoil", [blurred, with_bleeding_colours, smudged_in_places])
def test_the_more_a_training_picture_is_smudged_the_more_is_found(training_pictures, spoil):
    reference = crispness.training_edges(training_pictures[::4], SIZE)
    shown = [
        Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        for path in training_pictures[1::40]
    ]

    def smudged(images):
        found = [crispness.edges(as_tensor(image)).smudged(reference.widest) for image in images]
        return sum(found) / len(found)

    shares = [smudged(shown)]
    shares += [smudged([spoil(image, radius) for image in shown]) for radius in (0.5, 1, 2)]
    assert shares == sorted(shares) and shares[0] < 1, shares
    assert shares[-1] > 3 * shares[0] + 1, shares


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [blurred, with_bleeding_colours])
def test_patches_are_further_away_the_more_pictures_are_blurred(training_pictures, spoil):
    shown = [Image.open(path).convert("RGB").resize(SIZE) for path in training_pictures[::8]]
    reference = torch.stack([as_tensor(image) for image in shown])
    distances = []
    for radius in (0, 1, 3):
        spoilt = [spoil(image, radius) if radius else image for image in shown]
        pictures = torch.stack([as_tensor(image) for image in spoilt])
        distances.append(patches.distance(pictures, reference))
    finest, coarser = zip(*distances, strict=True)
    assert list(finest) == sorted(finest) and finest[1] > 1.2 * finest[0], distances
    # at half the size colours that run by one pixel are within chance
    assert coarser[2] == max(coarser) > 1.2 * coarser[0], distances


@pytest.mark.slow
def test_order_and_number_of_pictures_at_once_do_not_matter(training_pictures):
    some = [crispness.pixels(path, SIZE) for path in training_pictures[:12]]
    others = torch.stack([crispness.pixels(path, SIZE) for path in training_pictures[12:24]])
    distance = patches.distance(torch.stack(some), others)
    assert patches.distance(torch.stack(some[::-1]), others.flip(0)) == distance

    reference = crispness.training_edges(training_pictures[:24], SIZE)
    turned = crispness.training_edges(training_pictures[:24][::-1], SIZE)
    assert turned.widest == reference.widest
    assert sorted(turned.smudged) == sorted(reference.smudged)
    alone = [crispness.edges(each).smudged(reference.widest) for each in some]
    assert alone == reference.smudged[:12]


def test_what_the_eye_ranked_worst_is_smudged_more_than_what_it_ranked_best(training_pictures):
    reference = crispness.training_edges(training_pictures, SIZE)
    best, worst = (
        [
            crispness.edges(crispness.pixels(path)).smudged(reference.widest)
            for path in sorted(RANKED.glob(f"{name}-*.webp"))
        ]
        for name in ("best", "worst")
    )
    in_order = [bad > good for bad in worst for good in best]
    assert len(in_order) == 25 and sum(in_order) >= 24, (best, worst)


def test_an_edge_is_as_wide_as_its_colours_take():
    """A ramp of n pixels from black to white, in the middle of a picture."""
    for pixels in (1, 4, 8):
        ramp = torch.linspace(0, 1, pixels + 1)
        row = torch.cat([torch.zeros(20), ramp, torch.ones(20)])
        widths = crispness.edges(row.repeat(3, 32, 1)).widths()
        assert widths.max() == pytest.approx(pixels, rel=1e-4)
    assert not len(crispness.edges(torch.full((3, 32, 32), 0.5)).widths())


def test_training_pictures_are_brought_to_the_size_of_the_panels(tmp_path):
    picture(0, 512).save(tmp_path / "large.png")
    assert crispness.pixels(tmp_path / "large.png", (64, 48)).shape == (3, 48, 64)
    assert crispness.pixels(tmp_path / "large.png").shape == (3, 512, 512)


@pytest.mark.slow
def test_score_has_a_row_with_what_is_usual(training_set, tmp_path):
    paths = [training_set.path(row) for row in training_set.rows[::60]]
    images = [Image.open(path).convert("RGB").resize(SIZE) for path in paths]
    spoilt = [*images[:2], blurred(images[2], 3), *images[3:]]
    settings = Settings(output=str(tmp_path))
    own, smudged = (
        score(
            pictures_of(tmp_path / name, [(image, "微笑") for image in each]),
            settings,
            training_set,
        )
        for name, each in (("own", images), ("spoilt", spoilt))
    )
    assert own.value("crispness") < 1 < smudged.value("crispness")
    assert "most in panel 3" in str(smudged) and "is the training set itself" in str(smudged)


@pytest.mark.slow
def test_scores_of_the_version_before_are_measured_again(training_set, tmp_path):
    image = Image.open(training_set.path(training_set.rows[0])).convert("RGB")
    shown = pictures_of(tmp_path / "one", [(image, "微笑")])
    settings = Settings(output=str(tmp_path))
    first = score(shown, settings, training_set)

    file = tmp_path / "scores" / "one.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["checksum"], kept["measures"]["crispness"]
    file.write_text(json.dumps(sealed(kept | {"fingerprint": "0" * 64})), encoding="utf-8")
    assert score(shown, settings, training_set) == first


def test_few_training_pictures_do_and_none_with_an_edge_says_so(captions, make_settings, tmp_path):
    (tmp_path / "plain").mkdir()
    Image.new("RGB", SIZE, "white").save(tmp_path / "plain" / "a.png")
    with pytest.raises(Unmeasurable, match="have no edges"):
        crispness.training_edges([tmp_path / "plain" / "a.png"], SIZE)
    first = captions.path(captions.rows[0])
    assert crispness.training_edges([first], SIZE).smudged[0] < 5
    shown = pictures_of(tmp_path / "one", [(Image.open(first), "猫")])
    assert score(shown, make_settings(), captions).value("crispness") < 5


@pytest.mark.slow
def test_the_benchmark_measures_a_run_and_folders_beside_it(
    captions, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(captions.folder, run / "cleaned")
    for name in ("story", "base"):
        pictures_of(run / name, [(picture(seed), "猫") for seed in (20, 21)])
    (run / "others").mkdir()
    blurred(picture(22), 3).save(run / "others" / "a.jpg")
    command = ["crispness", "--output", str(run), "--pictures", str(run / "others")]
    monkeypatch.setattr("sys.argv", command)

    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    own, few, _, few_through_vae, story, base, others = found.values()
    assert own == few and own["pictures"] == 5 and len(own["patches"]) == 2
    assert own["smudged"] < few_through_vae["smudged"] < others["smudged"]
    assert story == base and any("smudged %" in line for line in lines)

    shutil.rmtree(run / "story")
    with pytest.raises(SystemExit, match="story holds no pictures: name another, or run python -m"):
        benchmark.main()
