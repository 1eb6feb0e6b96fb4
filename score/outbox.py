"""Send messages to a queue after the response, in a separate thread, so that no request waits.

Lambda freezes a container, with its threads, when the invocation ends. So this process also registers as an internal
extension: Lambda sends the response at once, but freezes the container only when the thread requests the next event
(AWS Compute Blog, "Running code after returning a response from an AWS Lambda function").

A message that can't be sent is dropped and reported: nothing waits for a service that is down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread

from score.kept import Message
from wire.client import Client, Limits
from wire.deadline import time_limit
from wire.errors import WireError

# A queue that is down delays the container by a second at most, and then not at all for 30 s.
LIMITS = Limits(connect=0.5, attempt=0.5, budget=1.0, tries=3)
# All messages that wait after a response, or at the end of a server, have this time; the rest is dropped. The server's
# processes are killed 4 s after the longest request.
FLUSH_SECONDS = 2.0
COOL_DOWN_SECONDS = 30.0
MAX_WAITING = 200  # messages, 48 MB at most; one request of 100 instances has fewer
# Pause after the handler has returned: the runtime sends the response on the same CPU.
RESPONSE_SECONDS = 0.002
# Lambda responds when the next invocation begins, which can be days later.
EXTENSION_LIMITS = Limits(attempt=30 * 86400, budget=30 * 86400, tries=1, idle=30 * 86400)
_PATH = "/2020-01-01/extension/"

Send = Callable[[str], None]  # raises WireError
Report = Callable[[str, Mapping[str, object]], None]


class Outbox:
    """Messages that wait to be sent, by a thread of its own. Threads can share it."""

    def __init__(
        self,
        send: Send,
        report: Report,
        next_invocation: Callable[[], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            send: sends a message.
            report: takes an event and its details: `not_kept`, with the number of instances.
            next_invocation: returns when the next invocation begins; Lambda can freeze the container until then. None
                outside of Lambda.
            clock: seconds, for the cool-down.
        """
        self._send = send
        self._report = report
        self._next_invocation = next_invocation
        self._clock = clock
        self._waiting: Queue[tuple[str, Message]] = Queue(MAX_WAITING)
        self._is_handled = Event()
        self._cool_down_until = float("-inf")
        self._in_hand: tuple[str, Message] | None = None  # what the thread is sending
        Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, model: str, message: Message) -> None:
        """Add a message to be sent. Never waits; if the outbox is full, the message is dropped."""
        try:
            self._waiting.put_nowait((model, message))
        except Full:
            self.report_dropped(model, message.instances, "Full", f"{MAX_WAITING} messages are waiting")

    def end_invocation(self) -> None:
        """Signal that the handler returns: the waiting messages are sent after the response."""
        self._is_handled.set()

    @property
    def is_empty(self) -> bool:
        """Whether no message is waiting or being sent."""
        return not self._waiting.unfinished_tasks

    def flush(self) -> None:
        """Wait until the thread has sent all messages; after `FLUSH_SECONDS`, drop and report the rest.

        A server calls it when there are no more requests; what is put later can be lost.
        """
        is_done = self._waiting.all_tasks_done
        with is_done:
            if is_done.wait_for(lambda: self.is_empty, FLUSH_SECONDS):
                return
        self._drop_waiting()
        in_hand = self._in_hand  # now the last one that the thread has taken
        if in_hand:
            self._report_late(*in_hand)

    def report_dropped(self, model: str, instances: int, reason: str, error: str = "") -> None:
        """Report instances that are not kept. `reason` is a short name, such as that of an exception."""
        self._report("not_kept", {"model": model, "instances": instances, "reason": reason, "error": error})

    def _run(self) -> None:
        while self._next_invocation is None:
            self._send_next()
        while True:
            try:
                self._next_invocation()
            except WireError:  # try again: otherwise Lambda would wait for this thread in every invocation
                time.sleep(0.05)
                continue
            self._is_handled.wait()
            self._is_handled.clear()
            if not self._waiting.empty():
                time.sleep(RESPONSE_SECONDS)
                ends = self._clock() + FLUSH_SECONDS
                while not self._waiting.empty() and self._clock() < ends:
                    self._send_next()
                self._drop_waiting()

    def _send_next(self) -> None:
        self._in_hand = self._waiting.get()
        self._send_one(*self._in_hand)
        self._in_hand = None
        self._waiting.task_done()

    def _send_one(self, model: str, message: Message) -> None:
        if self._clock() < self._cool_down_until:
            why = f"the queue failed less than {COOL_DOWN_SECONDS:.0f} s ago"
            self.report_dropped(model, message.instances, "Resting", why)
            return
        try:
            with time_limit(LIMITS.budget):
                self._send(message.body)
        except Exception as error:  # noqa: BLE001 - if the thread ended, Lambda would wait for it
            self._cool_down_until = self._clock() + COOL_DOWN_SECONDS
            # Only the text of the service's own errors is known to contain no data.
            text = str(error)[:300] if isinstance(error, WireError) else ""
            self.report_dropped(model, message.instances, type(error).__name__, text)

    def _drop_waiting(self) -> None:
        with suppress(Empty):
            while True:
                self._report_late(*self._waiting.get_nowait())
                self._waiting.task_done()

    def _report_late(self, model: str, message: Message) -> None:
        why = f"not all messages were sent within {FLUSH_SECONDS:.0f} s"
        self.report_dropped(model, message.instances, "Late", why)


def open_send(client: Client, queue: str) -> Send:
    """Return a function that sends a message to an SQS queue, given by its URL."""

    def send(body: str) -> None:
        payload = json.dumps({"QueueUrl": queue, "MessageBody": body})
        client.send("AmazonSQS.SendMessage", payload.encode())

    return send


def register_extension(client: Client, name: str) -> Callable[[], None]:
    """Register this process as an internal extension of Lambda; return a function that waits for the next event.

    Lambda accepts this only in the init phase.

    Args:
        client: client of AWS_LAMBDA_RUNTIME_API, without credentials and with `EXTENSION_LIMITS`.
        name: name of the extension.

    Raises:
        WireError: Lambda does not accept it.
    """
    registered = client.call("POST", _PATH + "register", [("lambda-extension-name", name)], b'{"events": ["INVOKE"]}')
    headers = [("lambda-extension-identifier", registered.headers.get("lambda-extension-identifier", ""))]

    def next_invocation() -> None:
        client.call("GET", _PATH + "event/next", headers)

    return next_invocation
