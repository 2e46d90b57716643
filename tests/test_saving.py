"""When the state of training is written, and when the time budget ends it; no clock runs here."""

import pytest

from storyboard import Settings, locks, train
from storyboard.errors import TimeBudgetError
from storyboard.training.saving import LONGEST_RESERVE, SECONDS, Saving, TimeBudget


class Clock:
    """Time passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class State:
    """Notes when it was written; ``cost`` seconds each."""

    def __init__(self, clock, cost=0.0):
        self.clock, self.cost, self.written = clock, cost, []

    def save(self, path):
        self.written.append(self.clock.now)
        self.clock.now += self.cost


def steps(saving, clock, state, total, seconds):
    """Steps of ``seconds`` each; the numbers after which the state was written."""
    saving.begin()
    written = []
    for number in range(1, total):
        clock.now += seconds
        before = len(state.written)
        saving.after(number, total, state)
        if len(state.written) > before:
            written.append(number)
    return written


@pytest.fixture
def clock():
    return Clock()


def test_quick_steps_are_written_after_each_quarter(clock, tmp_path):
    saving = Saving(tmp_path / "state", clock=clock)
    assert steps(saving, clock, State(clock), 100, 0.1) == [25, 50, 75]
    assert steps(saving, clock, State(clock), 3, 0.1) == [1, 2]


def test_slow_steps_are_written_every_five_minutes_too(clock, tmp_path):
    saving = Saving(tmp_path / "state", clock=clock)
    assert steps(saving, clock, State(clock), 24, SECONDS / 4) == [4, 6, 10, 12, 16, 18, 22]


def test_a_slow_place_is_given_a_tenth_of_the_time(clock, tmp_path):
    state = State(clock, cost=200.0)
    saving = Saving(tmp_path / "state", clock=clock)
    written = steps(saving, clock, state, 1000, 50.0)
    assert {250, 500, 750} < set(written)
    assert len(written) * state.cost < 0.11 * (clock.now - 1000)


def test_training_ends_before_its_budget_with_time_to_write(clock, tmp_path):
    state = State(clock, cost=20.0)
    saving = Saving(tmp_path / "state", None, TimeBudget("1h", clock), clock)
    with pytest.raises(TimeBudgetError, match="The time budget of 1h ended training at step") as e:
        steps(saving, clock, state, 10_000, 1.0)
    assert 3600 - 2 * LONGEST_RESERVE < clock.now - 1000 <= 3600
    assert clock.now == state.written[-1] + state.cost, "written when it ended"
    assert "of 10000" in str(e.value) and str(tmp_path) in str(e.value)


def test_slow_steps_leave_more_time(clock, tmp_path):
    state = State(clock, cost=100.0)
    saving = Saving(tmp_path / "state", None, TimeBudget(60, clock), clock)
    with pytest.raises(TimeBudgetError):
        steps(saving, clock, state, 1000, 200.0)
    assert clock.now - 1000 <= 3600


def test_a_budget_that_is_over_lets_one_step_be_done(clock, tmp_path):
    """So that a run goes on, if only by a step a call."""
    state = State(clock)
    saving = Saving(tmp_path / "state", None, TimeBudget("1s", clock), clock)
    with pytest.raises(TimeBudgetError, match="at step 1 of 10"):
        steps(saving, clock, state, 10, 5.0)
    assert len(state.written) == 1


def test_the_budget_counts_from_when_it_is_made(clock, tmp_path):
    budget = TimeBudget("10m", clock)
    clock.now += 550  # what comes before the steps
    saving = Saving(tmp_path / "state", None, budget, clock)
    with pytest.raises(TimeBudgetError, match=r"at step \d of"):
        steps(saving, clock, State(clock), 1000, 5.0)
    assert TimeBudget.of(None) is None


def test_the_budget_of_a_call_counts_its_wait_for_another_run(tmp_path, monkeypatch):
    order = []

    def of(written, clock):
        order.append("counting begins")

    def hold(folder, what):
        order.append("waiting for the folder")
        raise TimeoutError

    monkeypatch.setattr(TimeBudget, "of", of)
    monkeypatch.setattr(locks, "hold", hold)
    with pytest.raises(TimeoutError):
        train(None, Settings(output=tmp_path, time_budget="1h"))
    assert order == ["counting begins", "waiting for the folder"]
