"""Cleaning on a Ray of two nodes: what comes out is what one machine makes, whatever dies."""

import contextlib
import json
import shutil
import time

import psutil
import pytest
import yaml

from benchmarks import cluster_cleaning
from storyboard import clean, collect, show
from storyboard.data import judging
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError, SettingsError
from tests.conftest import picture
from tests.ray_cluster import end, of_node
from tests.test_benchmarks import benchmark
from tests.test_shards import encoded, write_tar


@pytest.fixture
def generated(tmp_path):
    return Captions.load(cluster_cleaning.make(tmp_path / "generated", 200))


def outcome(report):
    """All that is written, but for the seconds that operators took."""
    folder = report.captions.folder
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    files.pop(".manifest.json")
    del manifest["checksum"]
    for operator in manifest["operators"]:
        del operator["seconds"]
    return manifest, files


def on_both(captions, make_settings, address, **changes):
    """The outcome on one machine and on the cluster, in the same folder."""
    alone = outcome(clean(captions, make_settings(**changes)))
    shutil.rmtree(make_settings().folder / "cleaned")
    return alone, outcome(clean(captions, make_settings(cluster=address, **changes)))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_cleans_the_sample_set_as_one_machine_does(two_nodes, make_settings, capsys):
    captions = collect(make_settings())
    alone, spread = on_both(captions, make_settings, two_nodes.address)
    assert alone == spread
    assert "clean: 100%" in capsys.readouterr().out

    # nor is it done again where the other has done it
    clean(captions, make_settings())
    assert "clean: nothing to do" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_ray_cleans_a_set_with_broken_pictures_as_one_machine_does(two_nodes, tmp_path):
    # it ends with an error where anything differs
    options = ("--pictures", 300, "--output", tmp_path, "--address", two_nodes.address)
    result = benchmark("cluster_cleaning", *options)
    assert result["cluster"]["kept"] == result["one machine"]["kept"] > 200


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_write_the_pictures_that_mappers_make_and_compare_them(
    two_nodes, folder, make_settings, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(judging, "MOST_SLICES_HERE", 0)
    picture(2).resize((300, 300)).save(folder / "7.jpg", quality=70)
    (folder / "7.png").unlink()
    process = [
        {"image_near_deduplicator": {}},
        {"image_blur_mapper": {"p": 1.0, "blur_type": "gaussian", "radius": 4}},
        {"document_deduplicator": {}},
        {"image_shape_filter": {"min_width": 200}},
    ]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"process": process}))
    changes = {"recipe": str(tmp_path / "recipe.yaml"), "dataset": str(folder)}
    captions = collect(make_settings(**changes))
    alone, spread = on_both(captions, make_settings, two_nodes.address, **changes)
    assert alone == spread
    assert {len(files) for _, files in (alone, spread)} == {9 + 3}
    assert "clean: compare: 100%" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_ray_hands_on_why_an_operator_gives_up(two_nodes, generated, make_settings, tmp_path):
    process = [{"specified_numeric_field_filter": {"field_key": "width"}}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"process": process}))
    settings = make_settings(recipe=str(tmp_path / "recipe.yaml"), cluster=two_nodes.address)
    with pytest.raises(SettingsError, match="specified_numeric_field_filter, which fails at every"):
        clean(generated, settings)
    assert not (settings.folder / "cleaned").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_machines_that_do_not_see_the_pictures_are_refused(two_nodes, generated, make_settings):
    (generated.folder / "metadata.jsonl").unlink()  # as on another disk, to the others
    with pytest.raises(ResourceError, match="of the cluster does not see .*metadata.jsonl: collec"):
        clean(generated, make_settings(cluster=two_nodes.address))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_unpack_shards(two_nodes, make_settings, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        write_tar(folder / f"{shard}.tar", [(f"{shard}.png", encoded(shard)), ("a.txt", b"")])
    settings = make_settings(dataset=str(folder))
    alone = collect(settings)
    shutil.rmtree(settings.folder / "unpacked")
    assert collect(make_settings(dataset=str(folder), cluster=two_nodes.address)) == alone
    assert len(list((settings.folder / "unpacked").rglob("*.png"))) == len(alone) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_ray_loses_a_worker_and_then_a_machine(two_nodes, generated, make_settings, monkeypatch):
    """The machine stays lost; the next test has another Ray."""
    alone = outcome(clean(generated, make_settings()))
    shutil.rmtree(make_settings().folder / "cleaned")
    first, second = two_nodes.nodes
    step, killed = show.Live.step, []

    def killing(self, number, loss=None):
        step(self, number, loss)
        if number == 1:
            (worker,) = judges_of(first)
            worker.kill()
            killed.append(worker)
        if number == 60:
            until = time.monotonic() + 60
            while not any(each not in killed for each in judges_of(first)):
                assert time.monotonic() < until, "it is not replaced"
                time.sleep(0.1)
            end(second)
            killed.append(second)

    monkeypatch.setattr(show.Live, "step", killing)
    spread = outcome(clean(generated, make_settings(cluster=two_nodes.address)))
    assert alone == spread and len(killed) == 2


def judges_of(node):
    """The processes of ``node`` that have called a worker of ``Cluster.map``, or are about to."""
    found = []
    for each in of_node(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("_Batches" in word for word in each.cmdline()):
                found.append(each)
    return found
