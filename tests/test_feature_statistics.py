import pytest
import torch

from storyboard.scoring.feature_statistics import chance, coherence, kid, precision


@pytest.fixture
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of 300 features; the mean of the second is further from 0."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(300, 64, generator=generator)
    return near, torch.randn(300, 64, generator=generator) + 1


def test_sets_of_the_same_kind_are_within_chance_and_others_are_not(sets):
    near, far = sets
    assert abs(kid(near[:8], near[8:])) < 2 * chance(near, 8) < kid(far[:8], near)


def test_the_kernel_distance_is_the_papers(sets):
    x, y = sets[0][:3], sets[1][:4]

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.double() @ b.double().T / 64 + 1) ** 3

    def mean_of_pairs(k: torch.Tensor) -> torch.Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    within = mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y))
    assert kid(x, y) == pytest.approx((within - 2 * kernel(x, y).mean()).item())


def test_coherence_is_100_where_all_are_the_same():
    assert coherence(torch.ones(8, 4)) == pytest.approx(100)
    assert coherence(torch.eye(4)) == 0


def test_precision_counts_what_lies_among_the_others():
    line = torch.arange(10.0)[:, None]
    features = torch.tensor([[4.5], [11.9], [12.1], [-2.0]])
    assert precision(features, line).tolist() == [True, True, False, True]
