"""``train`` on a Ray of two machines comes to the LoRA of one process, also where a worker dies."""

import contextlib
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from safetensors.torch import load_file

from storyboard import Story, artifacts, show, train
from storyboard.compat.ray import TRAIN_ENVIRONMENT
from storyboard.errors import ResourceError, SettingsError, TrainingError
from storyboard.training import caching, on_cluster, post
from tests.ray_cluster import of_node

STEPS = 28
CHECKPOINTS = (7, 14, 21)  # a worker that is killed may reach one more than is seen here


def elsewhere(trained, folder, **changes):
    """The trained fixture's settings, writing into ``folder``, with a copy of its cache."""
    settings = trained[0].but(output=str(folder), **changes)
    shutil.copytree(trained[0].folder / "cache", settings.folder / "cache")
    return settings


def state(lora):
    return load_file(lora.path.parent / "training" / "state.safetensors")


def cached(settings):
    """Latents and text embeddings, and when they were made, by their place."""
    folder = settings.folder / "cache"
    return {
        path.relative_to(folder): SimpleNamespace(
            digest=artifacts.digest_of_file(path), made=path.stat().st_mtime_ns
        )
        for path in folder.rglob("*.safetensors")
    }


def workers(ray):
    """The processes that train."""
    found = []
    for each in (process for node in ray.nodes for process in of_node(node)):
        with contextlib.suppress(psutil.Error):
            if each.cmdline()[:1] == ["ray::RayTrainWorker"]:
                found.append(each)
    return found


def cluster_of(*nodes, gpus=0):
    alive = [{"Alive": True, "Resources": resources} for resources in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    return SimpleNamespace(ray=SimpleNamespace(nodes=lambda: [*alive, dead]), gpus=gpus)


def test_ray_train_still_reads_what_is_set_for_it():
    folder = Path(importlib.util.find_spec("ray").origin).parent
    files = ["train/constants.py", "train/v2/_internal/constants.py"]
    text = "".join((folder / name).read_text(encoding="utf-8") for name in files)
    assert [name for name in TRAIN_ENVIRONMENT if f'"{name}"' not in text] == []


def test_a_worker_has_a_gpu_or_a_machine_to_itself():
    head, small, large = {}, {"CPU": 4.0}, {"CPU": 16.0}
    assert on_cluster._room(cluster_of(head, small, large), False) == (2, {"CPU": 4})
    cards = {"CPU": 17.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 4.0}
    room = on_cluster._room(cluster_of(head, *cards, gpus=6), True)
    assert room == (6, {"GPU": 1, "CPU": 4})
    with pytest.raises(ResourceError, match="neither GPUs nor CPUs: start a machine by ray start"):
        on_cluster._room(cluster_of(head), False)


def test_what_ray_says_of_a_failure_becomes_one_of_ours():
    own = SettingsError("of a worker")
    failed = RuntimeError("of the group")
    failed.worker_failures = {0: RuntimeError("Connection closed by peer"), 1: own}
    assert on_cluster._failed(failed) is own
    error = on_cluster._failed(RuntimeError("The actor died.\nIn detail"))
    assert isinstance(error, TrainingError)
    message = "Training on the cluster failed (RuntimeError The actor died): look after its machin"
    assert str(error).startswith(message)


def test_lines_and_progress_of_a_worker_come_to_the_cell(capsys, tmp_path):
    sent = []
    sender = SimpleNamespace(send=lambda name, *arguments: sent.append((name, arguments)))
    with contextlib.redirect_stdout(post.SentLines(sender)):
        print("train: one", "line", flush=True)
        print("and ", end="")
        print("another")
    with post.SentLive(sender, "train", 2) as live:
        live.step(1, 0.5)
        live.picture("step 1", [])
        live.step(2, 0.25)
    screen = post.Screen(None, None)
    screen.show(sent)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["train: one line", "and another"]
    assert printed[-1].startswith("train: 100%") and "loss=" in printed[-1]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_trains_what_one_process_does_although_a_worker_dies(
    trained, two_nodes, tmp_path, monkeypatch, capsys
):
    captions, story = trained[2], Story(["二次元，紫色短发女孩，微笑"])
    alone = train(captions, elsewhere(trained, tmp_path / "alone", train_steps=STEPS), story)

    killed, real = [], show.Live.step

    def step(live, number, loss=None):
        real(live, number, loss)
        if number >= 9 and not killed:
            processes = workers(two_nodes)
            assert len(processes) == 2
            killed.append(processes[1])
            processes[1].kill()

    monkeypatch.setattr(show.Live, "step", step)
    # latents and text embeddings are made on both machines too
    monkeypatch.setattr(on_cluster, "FEW", len(captions) - 1)
    prepare, made_before = caching.prepare, {}

    def prepared(*arguments):
        prepare(*arguments)
        made_before.update(cached(arguments[1].settings))

    monkeypatch.setattr(caching, "prepare", prepared)
    settings = trained[0].but(
        output=str(tmp_path / "together"), train_steps=STEPS, cluster=two_nodes.address
    )
    capsys.readouterr()
    together = train(captions, settings, story)
    assert killed and workers(two_nodes) == []
    printed = capsys.readouterr().out
    assert "text embeddings on the cluster" in printed
    assert "train: cache latents: 100%" in printed
    expected = cached(trained[0])
    both = made_before.keys() & expected.keys()  # but for prompts of the stories
    assert len(both) > 300 and made_before.items() <= cached(settings).items()
    assert all(made_before[name].digest == expected[name].digest for name in both)
    assert any(f"train: going on from step {step}\n" in printed for step in CHECKPOINTS)

    # losses are summed in another order
    assert state(together)["losses"].tolist() == pytest.approx(
        state(alone)["losses"].tolist(), abs=1e-4
    )
    ours, theirs = load_file(together.path), load_file(alone.path)
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() < 1e-2, name
    assert [len(each.losses) for each in (alone, together)] == [STEPS, STEPS]
    assert together.previews == alone.previews
    assert [path.name for path in together.checkpoints] == [path.name for path in alone.checkpoints]
    manifests = [artifacts.read_manifest(each.path.parent) for each in (alone, together)]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    assert {path.name for path in settings.folder.iterdir()} == {"cache", "lora"}
    assert train(captions, settings.but(cluster=None), story) == together
    assert "train: nothing to do" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_ray_hands_on_what_training_refuses(trained, two_nodes, tmp_path):
    settings = trained[0].but(output=str(tmp_path), cluster=two_nodes.address)
    with pytest.raises(SettingsError, match="train_batch_size=1000 is more than the"):
        train(trained[2], settings.but(train_batch_size=1000))
