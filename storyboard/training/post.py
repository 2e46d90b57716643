"""What workers on a cluster tell the notebook: lines, progress, and when to keep copies.

Events go through an actor of Ray, because workers cannot call the notebook's process.
"""

import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from storyboard import show
from storyboard.keeping.along import Along

POLL = 0.2  # seconds
Event = tuple[str, tuple]  # name of a method of ``Screen``, and its arguments


class Post:
    """The actor; it holds events until they are taken."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._answer: str | None = None

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def ask(self, event: Event) -> None:
        """As ``put``, of an event that is answered."""
        self._answer = None
        self.put(event)

    def reply(self, answer: str) -> None:
        self._answer = answer

    def answer(self) -> str | None:
        """None until there is one."""
        return self._answer


class Sender:
    """A worker's side of ``post``, the actor's handle."""

    def __init__(self, post: Any) -> None:
        import ray

        self.post, self._ray = post, ray
        self._last: Any = None

    def send(self, name: str, *arguments: Any) -> None:
        """Have the notebook's ``Screen`` call its method ``name``; does not wait for it."""
        self._last = self.post.put.remote((name, arguments))

    def ask(self, name: str) -> str:
        """As ``send``; returns its answer."""
        self._ray.get(self.post.ask.remote((name, ())))
        while (answer := self._ray.get(self.post.answer.remote())) is None:
            time.sleep(POLL)
        return answer

    def flush(self) -> None:
        """Wait until all that was sent is with the actor."""
        if self._last is not None:
            self._ray.get(self._last)


class SentLines(io.TextIOBase):
    """A stdout whose lines the notebook prints."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self._rest = sender, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.sender.send("line", line)
        return len(text)


class SentLive:
    """As ``show.Live``, drawn by the notebook."""

    def __init__(self, sender: Sender, title: str, total: int) -> None:
        self.sender = sender
        sender.send("live", title, total)

    def __enter__(self) -> "SentLive":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.sender.send("end", kind is None)

    def step(self, number: int, loss: float) -> None:
        self.sender.send("step", number, loss)

    def picture(self, title: str, paths: Sequence[Path]) -> None:
        self.sender.send("picture", title, paths)


class SentAlong:
    """As ``keeping.along.Along``; the notebook's process keeps, which has the place's token."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self._text = sender, ""

    def __str__(self) -> str:
        return self._text

    def keep(self) -> None:
        self._text = self.sender.ask("keep")


class Screen:
    """The notebook's side: shows events in the cell."""

    def __init__(self, along: Along, post: Any) -> None:
        self.along, self.post = along, post
        self.begun = False
        self._live: show.Live | None = None

    def show(self, events: Iterable[Event]) -> None:
        """Call the methods that ``events`` name."""
        for name, arguments in events:
            getattr(self, name)(*arguments)

    def begin(self) -> None:
        """A worker works."""
        self.begun = True

    def line(self, text: str) -> None:
        print(text, flush=True)

    def live(self, title: str, total: int) -> None:
        """Progress begins, or begins again after a worker died."""
        self.end(False)
        self._live = show.Live(title, total).__enter__()

    def step(self, number: int, loss: float) -> None:
        if self._live:
            self._live.step(number, loss)

    def picture(self, title: str, paths: list[Path]) -> None:
        if self._live:
            self._live.picture(title, paths)

    def keep(self) -> None:
        self.along.keep()
        self.post.reply.remote(str(self.along))

    def end(self, whole: bool) -> None:
        """Progress is over; what was drawn stays if it is not ``whole``."""
        if self._live:
            self._live.__exit__(None if whole else RuntimeError, None, None)
        self._live = None
