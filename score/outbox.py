"""Send messages to a queue after the response, in a thread of its own: a request waits for none of it.

Lambda freezes a container once its response is sent, and its threads with it. So this process is also an internal
extension there: Lambda sends the response at once, and freezes the container when the thread asks for the next event
(AWS Compute Blog, "Running code after returning a response from an AWS Lambda function").

What can't be sent is dropped and reported: nothing waits for a service that is down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread

from score.kept import Message
from wire.client import Client, Limits
from wire.deadline import time_limit
from wire.errors import WireError

# A queue that answers slowly holds its container for a second, and then none for half a minute.
LIMITS = Limits(connect=0.5, attempt=0.5, budget=1.0, tries=3)
COOL_DOWN_SECONDS = 30.0
MAX_WAITING = 200  # messages: more than one request of 100 instances has, and 48 MB at most
# After the handler has returned: for the runtime to send the response, with which this thread shares a CPU.
RESPONSE_SECONDS = 0.002
# Lambda answers when the next invocation begins, which can be days away.
EXTENSION_LIMITS = Limits(attempt=30 * 86400, budget=30 * 86400, tries=1, idle=30 * 86400)
_PATH = "/2020-01-01/extension/"

Send = Callable[[str], None]  # raises WireError
Report = Callable[[str, Mapping[str, object]], None]


class Outbox:
    """Messages that wait to be sent. Threads can share it."""

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
            next_invocation: returns when the next invocation begins, and lets Lambda freeze the container until then;
                None where nothing is frozen.
            clock: seconds, which pass while nothing is sent.
        """
        self._send = send
        self._report = report
        self._next_invocation = next_invocation
        self._clock = clock
        self._waiting: Queue[tuple[str, Message]] = Queue(MAX_WAITING)
        self._is_handled = Event()
        self._rests_until = float("-inf")
        self._lock = Lock()
        Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, model: str, message: Message) -> None:
        """Leave a message to be sent; never waits."""
        try:
            self._waiting.put_nowait((model, message))
        except Full:
            self.report_dropped(model, message.instances, "Full", f"{MAX_WAITING} messages wait already")

    def end_invocation(self) -> None:
        """Say that the handler returns: what waits is sent when the response is out."""
        self._is_handled.set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self._waiting.unfinished_tasks

    def flush(self) -> None:
        """Send or drop all that waits."""
        while True:
            try:
                model, message = self._waiting.get_nowait()
            except Empty:
                return
            self._send_one(model, message)
            self._waiting.task_done()

    def report_dropped(self, model: str, instances: int, reason: str, error: str = "") -> None:
        """Report instances that are not kept; `reason` is the name of an error."""
        self._report("not_kept", {"model": model, "instances": instances, "reason": reason, "error": error})

    def _run(self) -> None:
        if self._next_invocation is None:
            while True:
                self._send_one(*self._waiting.get())
                self._waiting.task_done()
        while True:
            try:
                self._next_invocation()
            except WireError:  # without another try Lambda would wait for this thread in every invocation
                time.sleep(0.05)
                continue
            self._is_handled.wait()
            self._is_handled.clear()
            if not self._waiting.empty():
                time.sleep(RESPONSE_SECONDS)
                self.flush()

    def _send_one(self, model: str, message: Message) -> None:
        with self._lock:
            if self._clock() < self._rests_until:
                why = f"the queue failed less than {COOL_DOWN_SECONDS:.0f} s ago"
                self.report_dropped(model, message.instances, "Resting", why)
                return
            try:
                with time_limit(LIMITS.budget):
                    self._send(message.body)
            except Exception as error:  # noqa: BLE001 - a thread that ended would keep Lambda waiting
                self._rests_until = self._clock() + COOL_DOWN_SECONDS
                # Of the service's own errors alone the text is known to have no data.
                text = str(error)[:300] if isinstance(error, WireError) else ""
                self.report_dropped(model, message.instances, type(error).__name__, text)


def open_send(client: Client, queue: str) -> Send:
    """Return the function that sends a message to a queue of SQS, named by its URL."""

    def send(body: str) -> None:
        payload = json.dumps({"QueueUrl": queue, "MessageBody": body})
        client.send("AmazonSQS.SendMessage", payload.encode())

    return send


def register_extension(client: Client, name: str) -> Callable[[], None]:
    """Register this process as an internal extension of Lambda, during its start; return what waits for the next event.

    Args:
        client: of AWS_LAMBDA_RUNTIME_API, without credentials and with `EXTENSION_LIMITS`.
        name: of the extension.

    Raises:
        WireError: Lambda does not accept it.
    """
    registered = client.call("POST", _PATH + "register", [("lambda-extension-name", name)], b'{"events": ["INVOKE"]}')
    headers = [("lambda-extension-identifier", registered.header("lambda-extension-identifier") or "")]

    def next_invocation() -> None:
        client.call("GET", _PATH + "event/next", headers)

    return next_invocation
