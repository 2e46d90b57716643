"""Workers that train together come to what one process comes to; two plain processes, no Ray."""

import multiprocessing
import socket

import pytest
import torch
from torch import distributed

from storyboard.errors import ResourceError, TrainingError
from storyboard.models import bases
from storyboard.models.run import run_on
from storyboard.training import batches, cache, loop
from storyboard.training.group import Group
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.injection import inject
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.workers import Alone

MINI = bases.get("mini")
STEPS = 3


def gradients(settings, captions, workers):
    """Loss and LoRA gradients of steps whose batches cross no bucket, and of one of one picture."""
    run = run_on(MINI, settings)
    hyperparameters = Hyperparameters.of(run)
    cached = cache.prepare(captions, run)
    pipe = TrainingPipeline.load(MINI, ("unet",), "cpu", torch.float32)
    found = []
    with inject(pipe, hyperparameters):
        state = loop._training_state(pipe, hyperparameters)
        for parameter in state.parameters.values():  # otherwise half of the gradients are 0
            parameter.data.add_(0.01)
        workers.equalise(state)
        weights = loop._timestep_weights(pipe, hyperparameters)
        add = loop._gradients_of(pipe, state.scaler, weights, cuda_graphs=False)
        steps = batches.weighted_batches(cached, None, pipe, hyperparameters, 0)
        drawn = [next(steps) for _ in range(STEPS)]
        (batch, weight), *_ = drawn[0]
        drawn.append([({name: tensor[:1] for name, tensor in batch.items()}, weight)])
        for step in drawn:
            loss, _ = workers.summed(
                state.parameters.values(),
                lambda step=step: loop._accumulate(add, state.optimizer, workers.part(step), 4),
            )
            flat = [parameter.grad.flatten() for parameter in state.parameters.values()]
            found.append((loss, torch.cat(flat)))
    return found


def errors(workers):
    """What each worker raises of what one of them raised."""

    def refuse(error, rank):
        if workers.rank == rank:
            raise error
        return 1.0, 1

    parameter = torch.nn.Parameter(torch.zeros(2))
    calls = [
        lambda: workers.each(lambda: refuse(ResourceError("of the second"), 1)),
        lambda: workers.each(lambda: refuse(ResourceError("of the first"), 0), in_turn=True),
        lambda: workers.shared(lambda: refuse(TrainingError("shared"), 0)),
        lambda: workers.summed([parameter], lambda: refuse(ResourceError("of a step"), 1)),
    ]
    raised = []
    for call in calls:
        with pytest.raises((ResourceError, TrainingError)) as error:
            call()
        assert error.value is workers.error
        raised.append(f"{type(error.value).__name__}: {error.value}")
    assert workers.shared(lambda: workers.rank) == 0
    return raised


def worker(rank, port, queue, settings, captions):
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    workers = Group()
    raised = errors(workers)
    steps = [(loss, flat.tolist()) for loss, flat in gradients(settings, captions, workers)]
    queue.put((raised, steps))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_come_to_the_gradients_and_the_errors_of_one(trained):
    settings, _, captions, _ = trained
    expected = gradients(settings, captions, Alone())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (port, queue, settings, captions)
    processes = [context.Process(target=worker, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)

    for raised, steps in found:
        assert raised == [
            "ResourceError: of the second",
            "ResourceError: of the first",
            "TrainingError: shared",
            "ResourceError: of a step",
        ]
        for (loss, flat), (expected_loss, expected_flat) in zip(steps, expected, strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-5)
            difference = (torch.tensor(flat) - expected_flat).norm() / expected_flat.norm()
            assert difference < 1e-5
    assert found[0][1] == found[1][1], "all take the same step"
