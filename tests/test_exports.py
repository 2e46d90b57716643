"""What is given away: no path, user name or token in it, no text of people read as Markdown."""

import io
import re
import zipfile

import pytest
import yaml
from PIL import Image

from storyboard import (
    Reference,
    Settings,
    Story,
    bundle,
    clean,
    collect,
    convert,
    render,
    save_workflow,
    train,
)
from storyboard.exporting.markdown import escaped, table
from storyboard.story import Panel
from tests.conftest import picture

MARK = "zq9marked"  # in every name that must not get out
RECIPE = "process:\n  - text_length_filter:\n      min_len: 1\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """All that a run exports, by name, of a user whose name, folders and token are marked."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("users") / f"{MARK}-home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        patch.setenv(name, str(home))
    for name in ("USER", "LOGNAME", "USERNAME", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        patch.setenv(name, f"{MARK}-{name.lower()}")
    try:
        yield _run(home)
    finally:
        patch.undo()


def _run(home):
    (home / "pictures").mkdir()
    for seed in range(6):
        picture(seed, 128).save(home / "pictures" / f"{seed}.png")
        (home / "pictures" / f"{seed}.txt").write_text(f"画 {seed}", encoding="utf-8")
    picture(9, 100).save(home / "sketch.png")
    (home / "mine.yaml").write_text(RECIPE)
    settings = Settings(
        dataset="~/pictures",
        recipe=str(home / "mine.yaml"),
        output=str(home / "out"),
        resolution=64,
        train_steps=2,
        num_inference_steps=2,
    )
    report = clean(collect(settings), settings)
    story = Story(["二次元，女孩", Panel("猫", reference=Reference(str(home / "sketch.png")))])
    lora = train(report.captions, settings, story)
    pictures = render(story, settings, lora)
    made = bundle(pictures, lora, settings, report)
    save_workflow(pictures)
    files = [lora.path, *pictures.paths, pictures.grid, *pictures.folder.glob("workflow*.json")]
    files += [convert(lora, form) for form in ("diffusers", "diffsynth")]
    contents = {path.name: path.read_bytes() for path in files}
    with zipfile.ZipFile(made.path) as archive:
        contents |= {f"zip/{name}": archive.read(name) for name in archive.namelist()}
    return contents


@pytest.mark.slow
def test_exported_files_hold_no_path_user_name_or_token(exported):
    assert {"lora.safetensors", "workflow.json", "panel-2.png", "zip/story.json"} <= exported.keys()
    for name, content in exported.items():
        text = content
        if name.endswith(".png"):
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                text += "\n".join(image.text.values()).encode()
        assert MARK.encode() not in text, name
        paths = re.findall(rb"(?<![\w./:<])/(?:home|root|Users|tmp|work|mnt|data)/[\w.-]+", text)
        assert not paths, (name, paths[:3])


WILD = "<script>alert(1)</script> ![x](http://evil/x.png) `a` | *b* <img src=x> cat & dog"


def test_a_prompt_is_text_in_the_model_card_not_html(trained, tmp_path):
    settings, _, _, lora = trained
    settings = settings.but(output=str(tmp_path), num_inference_steps=2)
    prompts = [WILD, "女孩 ---\n---\n# 猫 <b>"]
    made = bundle(render(Story(prompts, negative_prompt=WILD), settings, lora), lora, settings)
    with zipfile.ZipFile(made.path) as archive:
        card = archive.read("README.md").decode()
    _, front, body = card.split("---\n", 2)
    assert "<" not in card and "http://evil" not in body
    widget = yaml.safe_load(front)["widget"]
    assert [example["text"] for example in widget] == prompts
    assert widget[0]["parameters"]["negative_prompt"] == WILD
    rows = [line for line in body.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 1 and len(re.split(r"(?<!\\)\|", rows[0])) == 6
    assert "&lt;script&gt;" in rows[0] and "\\!\\[x\\]" in rows[0] and "cat &amp; dog" in rows[0]


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a (cat:1.2), lazy_loader", "a (cat:1.2), lazy_loader"),
        ("<b>", "&lt;b&gt;"),
        ("[a](b) ![c](d)", "\\[a\\](b) \\!\\[c\\](d)"),
        ("_a_ *b* `c` ~d~ $e$", "\\_a\\_ \\*b\\* \\`c\\` \\~d\\~ \\$e\\$"),
        ("a\n# b", "a \\# b"),
        ("https://e.com www.e.com", "https&#58;//e.com www&#46;e.com"),
        ("a|b\\", "a\\|b\\\\"),
    ],
)
def test_text_is_escaped(text, markdown):
    assert escaped(text) == markdown


def test_a_bar_ends_no_cell():
    assert table(["a"], [["b|c"], [escaped("d|e")]])[2:] == ["| b\\|c |", "| d\\|e |"]
