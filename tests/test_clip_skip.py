"""clip_skip: CLIP read earlier than at its usual layer."""

import pytest
import torch

from storyboard import prompts as syntax
from storyboard.errors import SettingsError
from storyboard.models import conditioning, text_clip
from storyboard.models.run import run_on
from tests.parity import name_text_model, of_diffusers, ours


@pytest.fixture
def encode(hub, make_settings):
    """(base's name, prompts, changes of settings) -> their embeddings."""

    def run(name, prompts, **changes):
        settings = make_settings(base=name, **changes)
        return conditioning.encode(run_on(hub(name), settings), prompts)

    return run


def pipeline_of_diffusers(name, folder):
    return name_text_model(of_diffusers(name, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clip_skip", "of_theirs"),
    [("sd15", 1, None), ("sd15", 2, 1), ("sd15", 3, 2), ("sdxl", 2, None), ("sdxl", 3, 1)],
)
def test_clip_skip_parity_with_diffusers(encode, hub, name, clip_skip, of_theirs):
    prompt = "a girl with short purple hair"
    ours = encode(name, [prompt, ""], clip_skip=clip_skip)
    pipe = pipeline_of_diffusers(name, hub(name).folder)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            prompt,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            clip_skip=of_theirs,
        )
        theirs_empty = pipe.encode_prompt(
            "",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=of_theirs,
        )
    assert (ours[prompt].tokens - theirs[0][0]).abs().max() < 1e-5
    if name == "sdxl":
        assert torch.equal(ours[prompt].pooled, theirs[2][0]) and not ours[""].tokens.any()
    else:
        assert (ours[""].tokens - theirs_empty[0][0]).abs().max() < 1e-5
    usual = encode(name, [prompt])[prompt]
    assert torch.equal(ours[prompt].tokens, usual.tokens) == (of_theirs is None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompt", ["a (red:1.3) cat", "a (red:0.5) cat", "a girl with a red cat, " * 8]
)
def test_clip_skip_reaches_weights_and_long_prompts_parity_with_compel(encode, hub, prompt):
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    pipe = pipeline_of_diffusers("sd15", hub("sd15").folder)
    theirs = EmbeddingsProvider(
        pipe.tokenizer,
        pipe.text_encoder,
        truncate=False,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED,
        split_long_text_mode=SplitLongTextMode.PHRASES,
    )
    texts, weights = zip(*syntax.parse(prompt), strict=True)
    with torch.no_grad():
        expected = theirs.get_embeddings_for_weighted_prompt_fragments(
            [list(texts)], [list(weights)]
        )[0]
    ours, usual = (encode("sd15", [prompt], clip_skip=skip)[prompt].tokens for skip in (2, None))
    assert (ours - expected).abs().max() < 1e-5 and (ours - usual).abs().max() > 0.01


def test_clip_skip_leaves_the_encoder_as_it_was(hub):
    pipe = pipeline_of_diffusers("sdxl", hub("sdxl").folder)
    encoders = (pipe.text_encoder, pipe.text_encoder_2.text_model)
    before = [encoder.encoder.layers for encoder in encoders]

    def fail():
        with text_clip.without_last_layers(pipe, 2):
            assert [len(encoder.encoder.layers) for encoder in encoders] == [1, 1]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [encoder.encoder.layers for encoder in encoders] == before


def test_clip_skip_beyond_the_layers_there_are_is_an_error(encode):
    with pytest.raises(
        SettingsError,
        match="clip_skip=4 is more than the 3 layers of the text encoder of 'sd15': set it to 3",
    ):
        encode("sd15", ["a cat"], clip_skip=4)


@pytest.mark.slow
def test_clip_skip_pictures_parity_with_diffusers(hub, make_settings):
    base, settings = hub("sd15"), make_settings(base="sd15", clip_skip=2)
    prompt, negative = "a girl with short purple hair", "blurry"
    pipe = pipeline_of_diffusers("sd15", base.folder)
    # diffusers reads its negative prompt at the last layer whatever clip_skip says; A1111, kohya
    # and ComfyUI read both alike
    unwanted = pipe.encode_prompt(
        negative,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=1,
    )[0]
    drawn = pipe(
        prompt=[prompt],
        negative_prompt_embeds=unwanted,
        clip_skip=1,
        generator=[torch.Generator("cpu").manual_seed(7)],
        num_inference_steps=3,
        guidance_scale=4.0,
        height=128,
        width=128,
        output_type="pt",
    ).images[0]
    mine = ours(base, settings, prompt, negative, side=128)
    usual = ours(base, settings.but(clip_skip=None), prompt, negative, side=128)
    assert (mine - drawn).abs().max() < 1e-4
    assert (usual - drawn).abs().max() > 1e-3
