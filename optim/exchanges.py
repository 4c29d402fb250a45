"""How replicas hand each other their payloads: what an exchange is, and the one between threads.

An exchange carries bytes and weights and knows nothing of training. It gives every replica the same list in
the same order, for the mean is summed in that order. `process_group` has the one over torch.distributed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from atoll.optim.codecs.base import Payload

T = TypeVar("T")

Contributions = Sequence[tuple[int, Payload]]
"""(weight, payload) of each replica, one's own among them, in an order that is the same at every replica."""

Finish = Callable[[], Contributions]
"""Wait until everybody's payload is here, and give them. Called once, by the thread that started it."""


class Exchange(Protocol):
    """Any callable: start to send `payload` to the others and give what waits for theirs.

    Replicas call it equally often and in the same order. Weight 0 means that the replica sits the round out;
    its payload is not looked at. One that cannot overlap with training may do all in the call itself:
    `lambda payload, weight: partial(list, all_gather(payload, weight))`.
    """

    def __call__(self, payload: bytes, weight: int) -> Finish:
        """Start. Raises, as the result does, whatever went wrong on the way."""


class LocalGroup:
    """Replicas in one process, a thread each. Contributions come in the order of their places.

    A replica that leaves (its thread ended, or raised) takes part in no exchange that it has not sent to: the
    others go on without it, and never wait for it.
    """

    def __init__(self, replicas: int, timeout_s: float = 600.0) -> None:
        if replicas < 1:
            raise ValueError(f"a group has at least one replica, not {replicas}")
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._sent: dict[int, dict[int, tuple[int, bytes]]] = {}  # by exchange, then by place
        self._read: dict[int, int] = {}
        self._calls = [0] * replicas
        self._present = set(range(replicas))

    def run(self, train: Callable[[int, Exchange], T]) -> list[T]:
        """`train(place, exchange)` in a thread for each place; their results in order.

        If some raise, the others train to their end, and then the first one's error is raised.
        """
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}

        def body(place: int) -> None:
            try:
                results[place] = train(place, self.exchange(place))
            except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
                errors[place] = error
            finally:
                self.leave(place)

        threads = [threading.Thread(target=body, args=(place,)) for place in range(len(self._calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for place in sorted(errors):
            raise errors[place]
        return [results[place] for place in range(len(threads))]

    def exchange(self, place: int) -> Exchange:
        """What the replica at this place calls."""

        def start(payload: bytes, weight: int) -> Finish:
            with self._changed:
                number = self._calls[place]
                self._calls[place] += 1
                self._sent.setdefault(number, {})[place] = (weight, payload)
                self._changed.notify_all()
            return lambda: self._finish(number)

        return start

    def leave(self, place: int) -> None:
        """Take no part from now on."""
        with self._changed:
            self._present.discard(place)
            self._changed.notify_all()

    def _finish(self, number: int) -> Contributions:
        with self._changed:
            sent = self._sent[number]
            if not self._changed.wait_for(lambda: self._present <= sent.keys(), self._timeout_s):
                missing = sorted(self._present - sent.keys())
                raise TimeoutError(f"replicas {missing} sent nothing to exchange {number}")
            self._read[number] = self._read.get(number, 0) + 1
            if self._read[number] == len(sent):
                del self._sent[number], self._read[number]
            return [sent[place] for place in sorted(sent)]
