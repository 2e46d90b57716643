"""Character consistency by self-attention that also looks at panel 1, on every base."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from storyboard import Panel, Reference, Settings, Story, png, render
from storyboard.errors import SettingsError
from storyboard.models import bases, classifier, conditioning
from storyboard.models.run import check, run_on
from storyboard.rendering import sampling
from storyboard.rendering.shared_attention import shared
from tests.conftest import picture
from tests.test_parity import NAMES

PROMPTS, STEPS = ["a girl with short purple hair", "a boy in the rain", "a cat"], 3
STORY = Story(
    [
        f"卡通，女孩，{words}"
        for words in (
            "微笑，海边",
            "大笑，森林",
            "难过，雨天",
            "惊讶，夜空",
            "眨眼，城市",
            "微笑，舞台",
        )
    ],
    "模糊，低质量",
)
ASKED = [
    ("smiling", "seaside"),
    ("laughing", "forest"),
    ("sad", "rain"),
    ("surprised", "night"),
    ("winking", "city"),
    ("smiling", "stage"),
]


def small(**changes):
    return Settings(base="mini", **{"resolution": 64, "num_inference_steps": STEPS} | changes)


def pixels(path, side=128):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.LANCZOS))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "mini"])
def test_character_by_shared_attention_is_taken_back_exactly(hub, make_settings, name):
    base = hub(name) if name != "mini" else bases.get(name)
    run = run_on(base, make_settings(base=name))
    embeddings = conditioning.encode(run, [*PROMPTS, ""])
    pipe = sampling.load_pipeline(base, run.plan)

    def latents(prompts):
        return sampling.denoise(
            pipe,
            [embeddings[prompt] for prompt in prompts],
            [embeddings[""]] * len(prompts),
            list(range(len(prompts))),
            64,
            STEPS,
            4.0,
            0.7,
        )

    plain, processors = latents(PROMPTS), pipe.unet.attn_processors
    with shared(pipe.unet, 3, 1.0) as layers:
        together = latents(PROMPTS)
    # of one picture with itself: the same keys twice change no softmax
    with shared(pipe.unet, 1, 1.0):
        alone = latents(PROMPTS[:1])
    with shared(pipe.unet, 3, 1e-30):
        hardly = latents(PROMPTS)

    assert layers == sum(name.endswith("attn1.processor") for name in processors)
    assert pipe.unet.attn_processors == processors
    assert torch.equal(latents(PROMPTS), plain)

    plain, together, alone, hardly = (
        sampling.decode(pipe, each) for each in (plain, together, alone, hardly)
    )
    assert (together[0] - plain[0]).abs().max() < 1e-3
    assert (together[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    assert (alone - plain[:1]).abs().max() < 1e-3
    assert (hardly - plain).abs().max() < 1e-3


@pytest.fixture(scope="module")
def coherent(tmp_path_factory):
    """Pictures of one story whose prompts leave the character open.

    Whether they share attention -> six pictures for each of two seeds.
    """
    folder = tmp_path_factory.mktemp("coherent")
    pictures = {False: [], True: []}
    for on, stories in pictures.items():
        for seed in (10, 30):
            settings = Settings(
                base="mini",
                output=str(folder / f"{on}-{seed}"),
                seed=seed,
                num_inference_steps=10,
                render_batch_size=6,
                character="shared" if on else None,
            )
            stories.append(render(STORY, settings, None).paths)
    return pictures


@pytest.mark.slow
def test_character_by_shared_attention_raises_coherence_on_mini(coherent):
    model = classifier.load()
    cosine, hair, asked = {}, {}, {}
    for on, stories in coherent.items():
        shown = [np.stack([pixels(path) for path in paths]) for paths in stories]
        heads = [one[:, 16:100, 28:100] for one in shown]  # where every style has its head
        features = [torch.tensor(one / 255).flatten(1) for one in heads]
        features = [
            torch.nn.functional.normalize(one - one.mean(1, keepdim=True), dim=1)
            for one in features
        ]
        cosine[on] = np.mean(
            [float(one[a] @ one[b]) for one in features for a, b in combinations(range(6), 2)]
        )
        read = [classifier.read(model, one) for one in shown]
        hair[on] = np.mean(
            [row["hair_color"] == rows[0]["hair_color"] for rows in read for row in rows[1:]]
        )
        asked[on] = (
            np.mean(
                [
                    (row["expression"] == mood) + (row["background"] == place)
                    for rows in read
                    for row, (mood, place) in zip(rows, ASKED, strict=True)
                ]
            )
            / 2
        )
    assert cosine[True] > cosine[False] + 0.1 and hair[True] >= 0.8 > hair[False] + 0.3, (
        f"{cosine} {hair}"
    )
    assert asked[True] > asked[False] - 0.15, asked


@pytest.mark.slow
def test_character_leaves_panel_1_as_it_is_and_off_is_the_story_without(coherent, tmp_path, capsys):
    off, on = (paths[0] for paths in coherent.values())
    assert (
        np.abs(pixels(off[0], 256).astype(int) - pixels(on[0], 256)).max() <= 1
    )  # drawn in a batch of its own
    assert png.read(off[1]).character is None and png.read(on[1]).character.method == "shared"
    story = Story(list(STORY)[:3], "模糊")
    pictures = render(story, small(output=str(tmp_path), character="shared"), None)
    message = capsys.readouterr().out
    assert (
        "character: shared, " in message
        and " s a panel with it, " in message
        and " s without" in message
    )
    first = {path.name: path.read_bytes() for path in pictures.paths}
    render(
        Story([*story[:2], Panel("绿色长发女孩")], "模糊"),
        small(output=str(tmp_path), character="shared"),
        None,
    )
    assert (
        "drew 1 of 3 panels" in capsys.readouterr().out
        and pictures.paths[1].read_bytes() == first["panel-2.png"]
    )
    render(
        Story([Panel("红色短发男孩"), *story[1:]], "模糊"),
        small(output=str(tmp_path), character="shared"),
        None,
    )
    assert "drew 3 of 3 panels" in capsys.readouterr().out


@pytest.mark.slow
def test_character_beside_a_controlnet(tmp_path):
    picture(3).save(tmp_path / "a.png")
    story = Story(
        ["女孩", "女孩，微笑", Panel("女孩，海边", reference=Reference(tmp_path / "a.png"))]
    )
    one, two = (
        render(story, small(output=str(tmp_path / str(by)), character=by), None)
        for by in (None, "shared")
    )
    assert all(
        np.abs(pixels(one.paths[place]).astype(int) - pixels(two.paths[place])).mean() > 0.5
        for place in (1, 2)
    )
    for panels in (
        [Panel("a", reference=str(tmp_path / "a.png")), "b"],
        ["a", Panel("b", reference=Reference(tmp_path / "a.png", control="image"))],
    ):
        with pytest.raises(SettingsError, match="draws panel 1 beside every other panel"):
            render(Story(panels), small(output=str(tmp_path / "no"), character="shared"), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"character": "twin"}, "character='twin' must be"),
        ({"character": "ip-adapter"}, "The base 'mini' has no IP-Adapter"),
        ({"character_strength": 1.0}, "character_strength belongs to character="),
        ({"character": "shared", "character_strength": 0}, "character_strength=0 must be"),
        ({"character": "shared", "character_picture": "a.png"}, "character_picture belongs to"),
    ],
)
def test_character_settings_that_cannot_be_say_why(settings, message):
    with pytest.raises(SettingsError, match=message) as error:
        check(small(**settings))
    assert "\n" not in str(error.value)
