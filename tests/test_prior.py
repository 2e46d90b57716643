"""Prior preservation: pictures of the base's own beside those of the training set."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from storyboard import Settings, collect, train, vocabulary
from storyboard.errors import TrainingError
from storyboard.models import bases
from storyboard.models.run import run_on
from storyboard.rendering import sampling
from storyboard.training import batches, cache, distance, loop, loss, prior
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.injection import inject
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.saving import Saving
from tests import foreign

MINI = bases.get("mini")
COUNT = 8
SIDE = 128  # at 64 the base draws blank pictures


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a foreign set and an output in which its prior pictures are drawn."""
    folder = tmp_path_factory.mktemp("kept")
    output, dataset = str(folder / "out"), str(foreign.write(folder / "foreign", 8))
    settings = Settings(base="mini", dataset=dataset, output=output, resolution=SIDE)
    captions = collect(settings)
    run = run_on(MINI, settings)
    cache.prepare(captions, run)
    cache.prepare(prior.draw(run, captions, COUNT), run, name=cache.PRIOR)
    return folder


@pytest.fixture
def small(kept, make_settings, tmp_path, monkeypatch):
    """(captions, settings) of a foreign set whose few prior pictures are drawn."""
    real = Hyperparameters.of
    fewer = staticmethod(lambda run: replace(real(run), prior_pictures=COUNT))
    monkeypatch.setattr(Hyperparameters, "of", fewer)
    shutil.copytree(kept / "out", tmp_path / "out")
    dataset = str(kept / "foreign")
    changes = {"prior_loss_weight": 1.0, "train_steps": 8, "resolution": SIDE}
    settings = make_settings(dataset=dataset, **changes)
    return collect(settings), settings


def prepared(captions, settings):
    """Both caches, the UNet, and steps of six pictures with a prior loss weight of 0.5."""
    run = run_on(MINI, settings.but(train_batch_size=6, prior_loss_weight=0.5))
    own = cache.prepare(captions, run)
    drawn = cache.prepare(prior.draw(run, captions, COUNT), run, name=cache.PRIOR)
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    return own, drawn, pipe, batches.weighted_batches(own, drawn, pipe, Hyperparameters.of(run), 0)


def interrupt(monkeypatch, at):
    """Let the call ``at`` of the loss raise as Ctrl+C does; returns the undoing."""
    real, calls = loop.diffusion_loss, []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(loop, "diffusion_loss", interrupted)
    return lambda: monkeypatch.setattr(loop, "diffusion_loss", real)


def test_prompts_spread_evenly_over_what_the_base_knows(make_settings):
    texts = prior.prompts(run_on(MINI, make_settings()), ["动漫，女孩"], 48)
    assert len(set(texts)) == 48
    named = [vocabulary.named_attributes(text) for text in texts]
    for attribute, least in (("background", 4), ("hair_color", 5), ("expression", 8)):
        counts = Counter(value for each in named for value in each[attribute])
        assert min(counts.values()) >= least, (attribute, counts)
    assert 30 <= sum("prop" in each for each in named) <= 40
    assert sum(text.isascii() for text in texts) == 24


def test_prompts_name_no_style_of_the_captions(make_settings):
    run = run_on(MINI, make_settings())
    texts = prior.prompts(run, ["卡通，女孩", "a Minimal Avatar"], 24)
    assert not any("卡通" in text or "cartoon" in text for text in texts)
    assert not any("极简头像" in text or "minimal avatar" in text for text in texts)
    assert any("扁平插画" in text for text in texts)
    assert not any("二次元" in text for text in texts), "the base has never seen it"


def test_prompts_of_another_base_have_no_style_and_its_language(hub, make_settings):
    texts = prior.prompts(run_on(hub("sdxl"), make_settings(base="sdxl")), [], 8)
    assert all(text.isascii() and text.startswith("a ") for text in texts)


@pytest.mark.slow
def test_a_weight_of_zero_is_training_as_it_was(small, tmp_path):
    captions, settings = small
    without = settings.but(prior_loss_weight=0.0, train_batch_size=4, output=str(tmp_path / "a"))
    lora = train(captions, without)
    assert not (without.folder / "cache" / "prior").exists()
    with safe_open(lora.path, "pt") as file:
        assert "ss_prior_loss_weight" not in file.metadata()

    run = run_on(MINI, without)
    cached = cache.prepare(captions, run)
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    steps = batches.weighted_batches(cached, None, pipe, Hyperparameters.of(run), 0)
    plain = batches.batches_from(cached, 4, run.seed, 0)
    for number in range(5):
        [(batch, weight)] = next(steps)
        expected = batches.draw_batch(cached, *next(plain), pipe, run.seed, number)
        assert weight == 1.0
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_third_of_each_batch_are_prior_pictures(small):
    captions, settings = small
    own, drawn, pipe, steps = prepared(captions, settings)
    [(batch, weight)] = next(steps)
    assert batch["picture_weights"].tolist() == [1.5] * 4 + [1.5] * 2 and weight == 1.0

    one = Hyperparameters.of(run_on(MINI, settings.but(train_batch_size=1)))
    [(batch, _)] = next(batches.weighted_batches(own, drawn, pipe, one, 0))
    assert batch["picture_weights"].tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_pictures_of_other_shapes_are_a_batch_of_their_own_with_the_same_loss(small):
    _, _, pipe, steps = prepared(*small)
    [(together, _)] = next(steps)
    apart = [
        ({name: tensor[part] for name, tensor in together.items() if "weights" not in name}, weight)
        for part, weight in ((slice(0, 4), 1.0), (slice(4, 6), 0.5))
    ]
    wide = {name: tensor[:, :2] for name, tensor in apart[1][0].items() if name == "latents"}
    assert len(batches._together([apart[0], (apart[1][0] | wide, 0.5)])) == 2
    with torch.no_grad():
        expected = sum(weight * loss.diffusion_loss(pipe, **batch) for batch, weight in apart)
        found = loss.diffusion_loss(pipe, **together)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.slow
def test_prior_pictures_are_drawn_once_and_the_lora_says_so(small, monkeypatch, capsys):
    captions, settings = small
    shutil.rmtree(settings.folder / "cache" / "prior")
    lora = train(captions, settings)
    assert f"{COUNT} pictures are drawn of what mini knows" in capsys.readouterr().out
    assert len(list((settings.folder / "cache" / "prior").glob("*.png"))) == COUNT
    with safe_open(lora.path, "pt") as file:
        assert file.metadata()["ss_prior_loss_weight"] == "1.0"

    monkeypatch.setattr(sampling, "draw", lambda *_, **__: pytest.fail("drawn again"))
    again = train(captions, settings.but(train_steps=9, num_inference_steps=7, guidance_scale=3))
    assert again.digest != lora.digest
    assert "are drawn of what" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_prior_picture_that_was_changed_is_drawn_again(small, capsys):
    captions, settings = small
    run = run_on(MINI, settings)
    before = prior.draw(run, captions, COUNT)
    before.path(before.rows[0]).write_bytes(b"no picture")
    assert prior.draw(run, captions, COUNT).digest == before.digest
    assert "000.png is damaged" in capsys.readouterr().out


@pytest.mark.slow
def test_interrupted_it_goes_on_to_the_same_weights(small, tmp_path, monkeypatch, capsys):
    captions, settings = small
    whole = train(captions, settings)
    again = settings.but(output=str(tmp_path / "again"))
    shutil.copytree(settings.folder / "cache", again.folder / "cache")
    undo = interrupt(monkeypatch, at=6)
    with pytest.raises(KeyboardInterrupt):
        train(captions, again)
    undo()
    resumed = train(captions, again)
    assert "going on from step 4" in capsys.readouterr().out
    assert resumed.digest == whole.digest and resumed.losses == whole.losses


@pytest.mark.slow
def test_prior_pictures_keep_what_the_base_draws(small, tmp_path):
    """After the same steps the loss on the base's own pictures is lower with them than without."""
    captions, settings = small
    run = run_on(MINI, settings.but(train_steps=30, learning_rate=3e-3))
    own = cache.prepare(captions, run)
    drawn = cache.prepare(prior.draw(run, captions, COUNT), run, name=cache.PRIOR)
    losses = []
    for prior_cache in (None, drawn):
        pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
        parameters = Hyperparameters.of(run)
        folder = tmp_path / f"{len(losses)}"
        with inject(pipe, parameters):
            loop.optimise(
                pipe,
                own,
                parameters,
                Saving(folder / "state"),
                6,
                lambda _: None,
                prior=prior_cache,
            )
            losses.append(distance._loss(pipe, drawn, 0.4).item())
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_foreign_set_is_far_and_the_bases_own_is_near(small):
    captions, settings = small
    run = run_on(MINI, settings)
    drawn = prior.draw(run, captions, COUNT)
    far = distance.kept(run, captions, drawn)
    assert far > 2
    assert distance.kept(run, drawn, drawn) == pytest.approx(1)


def test_a_size_at_which_the_base_draws_nothing_is_told(small, monkeypatch):
    captions, settings = small
    monkeypatch.setattr(sampling, "BLANK", 256)  # mini draws something at every size
    with pytest.raises(TrainingError, match=r"prior_loss_weight=1 asks for at resolution=64: set"):
        prior.draw(run_on(MINI, settings.but(resolution=64)), captions, COUNT)


@pytest.mark.slow
def test_the_distance_is_measured_once(small, monkeypatch):
    captions, settings = small
    run = run_on(MINI, settings)
    drawn = prior.draw(run, captions, COUNT)
    measured = distance.kept(run, captions, drawn)
    file = run.folder / "cache" / distance.FILE
    with monkeypatch.context() as patch:
        patch.setattr(distance, "measured", lambda *_: pytest.fail("measured again"))
        assert distance.kept(run, captions, drawn) == measured
    file.write_text("{}")
    assert distance.kept(run, captions, drawn) == measured


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "kolors"])
def test_other_bases_take_prior_pictures_where_that_is_set(small, hub, name, tmp_path):
    captions, settings = small
    hub(name)
    lora = train(captions, settings.but(base=name, train_steps=2, output=str(tmp_path / name)))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(lora.path).values())
    drawn = tmp_path / name / "cache" / "prior"
    assert len(list(drawn.glob("*.png"))) == COUNT
