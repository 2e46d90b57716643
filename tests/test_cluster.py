"""A Ray of two nodes: rows on workers, in order, once each, whatever dies; and what is refused."""

import os
from types import SimpleNamespace

import pytest

from storyboard import Settings, cluster
from storyboard.errors import DatasetError, ResourceError, SettingsError
from tests.ray_cluster import TwoNodes, of_node
from tests.ray_workers import Killed, Square


@pytest.mark.parametrize("address", ["", "head", "head:", "ray://head:10001", 6379, "a/b:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SettingsError, match=r"cluster=.* must be \"local\", \"auto\""):
        Settings(cluster=address)


def test_addresses_of_all_forms_are_taken():
    for address in (None, "local", "auto", "10.0.0.1:6379", "head.example:6379", "[::1]:6379"):
        assert Settings(cluster=address).cluster == address


def test_without_ray_the_cell_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.compat.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(SettingsError, match="cluster='local' needs Ray: run %pip install \"ray"),
        cluster.connected("local", tmp_path),
    ):
        pass


def test_workers_of_several_cpus_are_as_many_as_machines_have_room_for():
    nodes = [{"Alive": cpus != 64, "Resources": {"CPU": float(cpus)}} for cpus in (8, 6, 64)]
    nodes.append({"Alive": True, "Resources": {}})
    found = cluster.Cluster(SimpleNamespace(nodes=lambda: nodes), 3, 14, 2)
    assert [found.cpus_for(threads) for threads in (1, 4, 16)] == [1, 4, 8]
    assert [found.workers(100, 1, False, cpus) for cpus in (1, 4, 8)] == [14, 3, 1]
    assert found.workers(2, 1, False, 4) == found.workers(9, 1, True) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_each_row_to_a_worker_and_keeps_their_order(two_nodes, tmp_path):
    with cluster.connected(two_nodes.address, tmp_path) as ray:
        assert (ray.nodes, ray.cpus, ray.gpus) == (2, 2, 0)
        made = list(ray.map([{"n": n} for n in range(40)], Square, {"power": 2}))
    assert [(row["n"], row["result"]) for row in made] == [(n, n * n) for n in range(40)]
    assert os.getpid() not in {row["process"] for row in made}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ray_replaces_a_worker_that_dies(two_nodes, tmp_path):
    arguments = {"at": 7, "marker": str(tmp_path / "killed")}
    with cluster.connected(two_nodes.address, tmp_path) as ray:
        made = list(ray.map([{"n": n} for n in range(12)], Killed, arguments, rows_at_once=3))
    assert (tmp_path / "killed").exists()
    assert made == [{"n": n, "text": f"row {n}"} for n in range(12)]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_ends_where_workers_die_at_the_same_rows_again_and_again(
    two_nodes, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "RETRIES", 1)
    with (
        cluster.connected(two_nodes.address, tmp_path) as ray,
        pytest.raises(ResourceError, match="could not go on .*: look after the memory and the"),
    ):
        list(ray.map([{"n": n} for n in range(4)], Killed, {"at": 2}))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_hands_on_the_error_that_a_worker_raised(two_nodes, tmp_path):
    with (
        cluster.connected(two_nodes.address, tmp_path) as ray,
        pytest.raises(DatasetError, match="row 3 is bad"),
    ):
        list(ray.map([{"n": n} for n in range(5)], Square, {"power": 2, "bad": 3}))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_machines_that_differ_are_refused_by_name(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PACKAGES", (*cluster.PACKAGES, "psutil"))
    monkeypatch.setattr(cluster, "_facts", lambda: {"python": "3.8.0"})
    with (
        pytest.raises(SettingsError, match=r"of the cluster has python 3\.1\S+ for 3\.8\.0"),
        cluster.connected(two_nodes.address, tmp_path),
    ):
        pass


@pytest.mark.ray
@pytest.mark.slow
def test_ray_machines_without_the_output_folder_are_refused(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.Path, "touch", lambda self: None)  # another disk, to the others
    monkeypatch.setattr(cluster.Path, "unlink", lambda self: None)
    with (
        pytest.raises(ResourceError, match=r"does not see .*: set output to a folder that is moun"),
        cluster.connected(two_nodes.address, tmp_path),
    ):
        pass


@pytest.mark.slow
def test_no_ray_at_an_address_is_said_in_a_sentence(tmp_path):
    with (
        pytest.raises(SettingsError, match="no Ray answers there"),
        cluster.connected("127.0.0.1:1", tmp_path),
    ):
        pass


@pytest.mark.ray
@pytest.mark.slow
def test_ray_of_the_tests_leaves_no_process():
    ray = TwoNodes()
    assert all(len(of_node(node)) >= 4 for node in ray.nodes)
    ray.end()
    assert not any(of_node(node) for node in ray.nodes)
