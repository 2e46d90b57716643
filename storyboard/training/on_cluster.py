"""Training on a cluster: Ray Train runs ``making.trained`` on all workers, and again if one dies.

There is a worker on each GPU; without GPUs, one on each machine. They go on from the last
checkpoint in the output folder, with as many workers as there are machines then: the result
depends on their number by rounding alone.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from storyboard import cluster, locks
from storyboard.compat import ray as compat
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError, StoryboardError, TrainingError, reason
from storyboard.lora.file import Lora
from storyboard.models.run import settings_everywhere
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.training import making, post
from storyboard.training.given import Given, choice_here, working
from storyboard.training.workers import Alone, Surroundings

FEW = 1000  # pictures that one worker caches sooner than others have started
FAILURES = 3  # of workers or machines, after which training begins again; the next one ends it
POLL = 0.3  # seconds between looks at what workers tell
SECONDS_TO_END = 20.0  # of workers, after which they are killed
PATIENCE = 60.0  # seconds until a line says that workers wait for machines
TIMEOUT = 7 * 24 * 3600  # of torch's collectives: who is dead is found by Ray, not by waiting
RESIZE_INTERVAL = 600.0  # seconds; for new machines the last steps are done again


def train(
    captions: Captions, settings: Settings, story: Story | None, surroundings: Surroundings
) -> Lora:
    """What ``making`` trains, on ``settings.cluster``."""
    assert settings.cluster is not None
    with cluster.connected(settings.cluster, settings.folder) as ray_cluster:
        ray = ray_cluster.ray
        gpu = bool(ray_cluster.gpus) and settings.device in (None, "cuda")
        slots, resources = _room(ray_cluster, gpu)
        here = {"num_cpus": 0, "scheduling_strategy": compat.on_node(compat.own_node())}
        events = ray.remote(**here)(post.Post).remote()
        screen = post.Screen(surroundings.along, events)
        given = Given(
            replace(captions, folder=captions.folder.resolve()),
            # what the notebook's process does itself is not for workers
            settings_everywhere(settings).but(keep_in=None, time_budget=None),
            story,
            surroundings.budget,
            settings.keep_in is not None,
            events,
        )
        try:
            # 1. What is to be trained, which depends on the card
            options = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
            choosing = ray.remote(**options, max_calls=1)(_choose).remote(given, FEW)
            outcome = _followed(ray, choosing, screen)

            # 2. What it is trained on, and training
            if not isinstance(outcome, Lora):
                from storyboard.training import caching  # loads much, for nothing where all is done

                given = replace(given, choice=outcome.choice)
                caching.prepare(ray_cluster, given, outcome, slots, gpu, resources["CPU"])
                count = min(slots, outcome.choice.run.train_batch_size)
                storage = str(locks.scratch(settings.folder.resolve() / "ray"))
                environment = {"env_vars": compat.TRAIN_ENVIRONMENT}
                fit = ray.remote(**here, max_retries=0, max_calls=1, runtime_env=environment)(_fit)
                fitting = fit.remote(given, count, resources, gpu, storage)
                outcome = _followed(ray, fitting, screen)
        finally:
            screen.end(False)
            ray.kill(events)
    return replace(outcome, path=settings.folder / "lora" / outcome.path.name)


def _room(ray_cluster: cluster.Cluster, gpu: bool) -> tuple[int, dict[str, int]]:
    """How many workers have room, and what each has to itself.

    Raises:
        ResourceError: There is none.
    """
    nodes = [node["Resources"] for node in ray_cluster.ray.nodes() if node["Alive"]]
    if gpu:
        shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
        return ray_cluster.gpus, {"GPU": 1, "CPU": int(min(shares))}
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ResourceError(
            "The machines of the cluster give Ray neither GPUs nor CPUs: start a machine by "
            "ray start --address without --num-cpus=0."
        )
    return len(cpus), {"CPU": min(cpus)}


def _followed(ray: Any, working: Any, screen: post.Screen) -> Any:
    """What ``working`` comes to; shows what workers tell until then.

    Raises:
        StoryboardError: That which it comes to.
    """
    began, told = time.monotonic(), False
    screen.begun = False
    try:
        while True:
            done, _ = ray.wait([working], timeout=POLL)
            screen.show(ray.get(screen.post.take.remote()))
            if done:
                outcome = ray.get(working)
                break
            if not (screen.begun or told) and time.monotonic() - began > PATIENCE:
                print("train: waiting until machines of the cluster have room", flush=True)
                told = True
    except ray.exceptions.RayError as error:
        raise _failed(error) from error
    except KeyboardInterrupt:
        _end(ray, working)
        raise
    if isinstance(outcome, StoryboardError):
        raise outcome
    return outcome


def _end(ray: Any, working: Any) -> None:
    """Have ``working`` end its workers, before another call works in the folder."""
    ray.cancel(working)
    if not ray.wait([working], timeout=SECONDS_TO_END)[0]:
        ray.cancel(working, force=True)


def _choose(given: Given, few: int) -> Any:
    """In a process of Ray's: ``caching.Chosen``, the LoRA if it is trained already, or an error."""
    from storyboard.training import caching

    sender = post.Sender(given.events)
    try:
        with _working(given, sender):
            choice = making.chosen(given.captions, given.settings)
            return choice if isinstance(choice, Lora) else caching.chosen(given, choice, few)
    except StoryboardError as error:
        return error
    finally:
        sender.flush()


def _fit(given: Given, count: int, resources: dict, gpu: bool, storage: str) -> Any:
    """What the first worker returns, or the error that training ended with.

    Runs in a process of its own on the notebook's machine: Ray Train sets up loggers and handles
    signals in its process, and its workers end with it.
    """
    from ray import train
    from ray.train import torch

    trainer = torch.TorchTrainer(
        _worker,
        train_loop_config={"given": given},
        # objects travel between CPUs, also where gradients do between GPUs
        torch_config=torch.TorchConfig("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=TIMEOUT),
        scaling_config=train.ScalingConfig(
            num_workers=(1, count),
            use_gpu=gpu,
            resources_per_worker=resources,
            placement_strategy="SPREAD",
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL,
        ),
        run_config=train.RunConfig(
            name="train",
            storage_path=storage,
            failure_config=train.FailureConfig(max_failures=FAILURES),
        ),
    )
    try:
        return trainer.fit().return_value
    except train.TrainingFailedError as error:
        return _failed(error)


def _failed(error: Exception) -> StoryboardError:
    """``error`` of Ray's as one of ours: that of a worker, if there is one."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    own = [each for each in failures if isinstance(each, StoryboardError)]
    if own:
        return own[0]
    return TrainingError(
        f"Training on the cluster failed ({reason(failures[0])}): look after its machines and run "
        "this cell again; it goes on from the last checkpoint."
    )


def _worker(config: dict[str, Given]) -> Lora | StoryboardError:
    return _work(**config)


def _work(given: Given) -> Lora | StoryboardError:
    """A worker. Errors of ours are returned: after those that are raised Ray would try again."""
    from torch import distributed

    from storyboard.training.group import Group

    count = distributed.get_world_size()
    workers = Group() if count > 1 else Alone()
    sender = post.Sender(given.events)
    surroundings = Surroundings(
        post.SentAlong(sender) if given.keeps else None,
        given.budget,
        partial(post.SentLive, sender) if workers.is_first else _no_live,
        workers,
    )
    try:
        with _working(given, sender):
            choice = workers.each(lambda: choice_here(given, count), in_turn=True)
            return making.trained(given.captions, choice, given.story, surroundings)
    except StoryboardError as error:
        if isinstance(workers, Group) and error is not workers.error:
            raise  # the others do not know of it, and wait
        return error
    finally:
        sender.flush()


@contextlib.contextmanager
def _working(given: Given, sender: post.Sender) -> Iterator[None]:
    """Inside, this process works for the notebook's, whose cell is told."""
    sender.send("begin")
    with working(given, post.SentLines(sender)):
        yield


def _no_live(title: str, total: int) -> contextlib.nullcontext:
    return contextlib.nullcontext()
