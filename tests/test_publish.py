import json
import traceback

import pytest

from storyboard import publish
from storyboard.errors import BundleError, SettingsError
from storyboard.exporting.bundle import zipped
from tests.upload_server import TOKEN, UploadHub

FILES = {
    "README.md": "---\nlicense: cc-by-4.0\n---\n故事".encode(),
    "lora.safetensors": b"lora" * 100,
    "story.json": b"{}",
    "panel-1.png": b"png",
}


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "story.zip"
    path.write_bytes(zipped(FILES))
    return path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = UploadHub()
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, made.url)
    yield made
    made.close()


def test_publishing_a_bundle_is_a_dry_run_unless_asked(bundle, hub, capsys):
    result = publish(bundle, "me/story", token=TOKEN)
    assert (
        not result.sent
        and hub.asked == []
        and result.url == "https://modelscope.cn/models/me/story"
    )
    said = capsys.readouterr().out
    assert (
        "nothing sent" in said
        and "lora.safetensors            0.4 KB" in said
        and TOKEN not in said
    )


@pytest.mark.parametrize(
    ("name", "lfs"), [("huggingface", False), ("huggingface", True), ("modelscope", True)]
)
def test_a_published_bundle_arrives_whole_and_the_token_is_nowhere(
    bundle, hub, name, lfs, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # the stand-in has no such store
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hub.lfs = lfs
    result = publish(bundle, "me/story", name, TOKEN + "\n", dry_run=False)
    assert result.sent and hub.files == FILES | {"story.zip": bundle.read_bytes()}, hub.asked
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err + repr(result) and not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_hub_that_refuses_a_bundle_shows_no_token(bundle, hub, name, capfd):
    wrong = "-".join(["hf_wrong", "and", "secret"])  # a traceback quotes this file
    with pytest.raises(BundleError, match=f"{name} did not take me/story") as caught:
        publish(bundle, "me/story", name, wrong, dry_run=False)
    said = capfd.readouterr()
    assert (
        wrong not in said.out + said.err + "".join(traceback.format_exception(caught.value))
        and caught.value.__context__ is None
    )


def test_publishing_a_bundle_without_a_network_is_one_sentence_without_the_token(
    bundle, monkeypatch, capfd
):
    wrong = "-".join(["hf_wrong", "and", "secret"])
    monkeypatch.setenv(
        "HF_ENDPOINT", "http://127.0.0.1:9"
    )  # ModelScope's client tries for 16 seconds
    with pytest.raises(BundleError, match="huggingface did not take me/story") as caught:
        publish(bundle, "me/story", "huggingface", wrong, dry_run=False)
    said = capfd.readouterr()
    assert "\n" not in str(caught.value) and wrong not in said.out + said.err + "".join(
        traceback.format_exception(caught.value)
    )


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_failure_that_quotes_the_token_publishes_none_of_it(bundle, monkeypatch, name):
    wrong = "-".join(["hf_wrong", "and", "secret"])
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "-".join(["ms", "also", "secret"]))

    def quoting(*_):
        raise LookupError(
            "x" * 190 + f" Bearer {wrong} ms-also-secret"
        )  # cut off in the middle of the token

    monkeypatch.setattr(f"storyboard.models.uploading._{name}", quoting)
    with pytest.raises(BundleError) as caught:
        publish(bundle, "me/story", name, wrong, dry_run=False)
    assert not [
        word
        for word in ("hf_", "secret", "ms-")
        if word in "".join(traceback.format_exception(caught.value))
    ]


def test_an_error_of_ours_keeps_its_sentence_when_publishing(bundle, monkeypatch):
    def refusing(*_):
        raise SettingsError("a sentence of its own.")

    monkeypatch.setattr("storyboard.models.uploading._huggingface", refusing)
    with pytest.raises(SettingsError, match="^a sentence of its own.$"):
        publish(bundle, "me/story", "huggingface", TOKEN, dry_run=False)


def test_a_token_that_is_no_token_is_refused_without_showing_it(bundle):
    for wrong in ("hf_se cret", "hf_se\ncret", "hf_secret密", " "):
        with pytest.raises(SettingsError, match="one word") as caught:
            publish(bundle, "me/story", token=wrong)
        assert "cret" not in str(caught.value)


def test_a_bundle_with_a_home_folder_in_it_is_not_published(tmp_path):
    header = {"__metadata__": {"ss_sd_model_name": r"C:\Users\anna\sdxl.safetensors"}}
    files = FILES | {"lora.safetensors": json.dumps(header).encode()}
    (tmp_path / "story.zip").write_bytes(zipped(files))
    with pytest.raises(BundleError, match="lora.safetensors holds a path"):
        publish(tmp_path / "story.zip", "me/story")


def test_what_cannot_be_published_says_so(bundle, tmp_path):
    with pytest.raises(SettingsError, match="hub='github'"):
        publish(bundle, "me/story", "github")
    with pytest.raises(SettingsError, match="owner/name"):
        publish(bundle, "story")
    (tmp_path / "bad.zip").write_bytes(zipped({"README.md": b""}))
    with pytest.raises(BundleError, match="lacks lora.safetensors"):
        publish(tmp_path / "bad.zip", "me/story")
