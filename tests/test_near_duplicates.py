"""Near-duplicates by slices are those that all pairs say, however the slices are cut."""

import numpy as np
import pytest

from storyboard.compat.data_juicer import data_juicer


@pytest.fixture(scope="module")
def near_duplicates():
    with data_juicer():
        from storyboard.data import near_duplicates

        yield near_duplicates


def thumbnails(count):
    """Flat drawings, each twice more: saved again in another exposure, and changed in one place."""
    chance = np.random.default_rng(0)
    drawn = chance.integers(0, 256, (count, 6, 6, 3)).repeat(8, 1).repeat(8, 2)
    drawn = 128 + (drawn - 128) * chance.uniform(0.1, 1, (count, 1, 1, 1))
    again = drawn + chance.normal(0, 3, drawn.shape) + chance.uniform(-8, 8, (count, 1, 1, 1))
    changed = drawn.copy()
    changed[:, 10:14, 10:14] += chance.uniform(0, 60, (count, 1, 1, 1))
    fine = np.concatenate([drawn, again, changed]).clip(0, 255).astype(np.uint8)
    return fine.reshape(3 * count, -1)[chance.permutation(3 * count)]


def first_of_same(module, operator, fine):
    """As the operator's docstring has it, all pairs one by one."""
    small = module._smaller(fine)
    means = small.mean(1)
    limits = np.minimum(operator.max_difference, module.LOW_CONTRAST * np.ptp(small, axis=1))
    first = list(range(len(fine)))
    for one in range(len(fine)):
        for other in range(one):
            low, high = sorted((means[one], means[other]))
            differences = np.abs((small[one] - means[one]) - (small[other] - means[other]))
            if (
                high <= low + np.float32(operator.max_exposure)
                and differences.max() <= min(limits[one], limits[other])
                and not module._changed_in_one_place(fine[other][None], fine[one])[0]
            ):
                kept, dropped = sorted((first[one], first[other]))
                first = [kept if each == dropped else each for each in first]
    return first


@pytest.mark.parametrize(("slice_", "at_once"), [(1024, 256), (7, 3), (1, 1)])
def test_slices_find_what_all_pairs_say(near_duplicates, monkeypatch, slice_, at_once):
    import datasets

    monkeypatch.setattr(near_duplicates, "SLICE", slice_)
    monkeypatch.setattr(near_duplicates, "AT_ONCE", at_once)
    fine = thumbnails(40)
    operator = near_duplicates.ImageNearDeduplicator()
    columns = {"id": list(range(len(fine))), "thumbnail": [each.tobytes().hex() for each in fine]}
    kept, _ = operator.process(datasets.Dataset.from_dict(columns))

    expected = first_of_same(near_duplicates, operator, fine)
    assert [operator.repeats.get(i, i) for i in range(len(fine))] == expected
    assert kept["id"][:] == [i for i, first in enumerate(expected) if first == i]
    assert 20 < len(operator.repeats) < 80


def test_many_copies_of_one_picture_take_one_pair_each(near_duplicates, tmp_path):
    import datasets

    raw = thumbnails(1)[0].tobytes().hex()
    rows = datasets.Dataset.from_dict({"thumbnail": [raw] * 1000})
    path = str(tmp_path / "thumbnails")
    near_duplicates._write_thumbnails(rows, path)
    pairs = near_duplicates.Thumbnails(path, 24.0, 12.0).pairs(0)
    assert pairs.tolist() == [[0, other] for other in range(1, 1000)]
