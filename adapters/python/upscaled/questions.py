"""Questions for the daemon's health, and their answers. Those that find no daemon are for the next
one."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from upscaled.channel import Channel
from upscaled.errors import NoAnswerError, UpscaledError
from upscaled.jobline import line_of
from upscaled.timers import Timer, Timers

Answer = Future[dict[str, Any]]


@dataclass(eq=False)
class _Question:
    kind: str
    answer: Answer = field(default_factory=Future)
    is_sent: bool = False
    timer: Timer | None = None


class Questions:
    """Hold the client's lock. Callbacks of the answers may run without it."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        # By `request_id`, in the order of the questions.
        self._open: dict[str, _Question] = {}
        self._replays: list[bytes] = []  # that are not written yet
        self._asked = 0

    def ask(self, kind: str, timeout_s: float) -> Answer:
        """The answer to `health` or `trim`; `NoAnswerError` after this time."""
        self._asked += 1
        request_id = str(self._asked)
        question = self._open[request_id] = _Question(kind)
        question.answer.set_running_or_notify_cancel()

        def give_up() -> None:
            text = f"the daemon did not answer {kind} within {timeout_s:g} s"
            self._settle(request_id, NoAnswerError(text))

        question.timer = self._timers.start(timeout_s, give_up)
        return question.answer

    def replay(self, line: bytes) -> None:
        """Ask for the ends of jobs. They come as messages of the jobs."""
        self._replays.append(line)

    def write(self, channel: Channel) -> None:
        """Write the unsent questions, as long as there is room. A daemon that hangs gets no
        more."""
        while self._replays:
            channel.send(self._replays.pop(0))
        for request_id, question in list(self._open.items()):  # a timer may take one out
            if not question.is_sent and channel.has_room:
                question.is_sent = True
                channel.send(line_of({"type": question.kind, "request_id": request_id}))

    def answer(self, report: dict[str, Any]) -> None:
        """Take an answer. A daemon without `request_id` answers in the order of the questions."""
        request_id = report.get("request_id")
        if not isinstance(request_id, str):
            sent = (one for one, question in self._open.items() if question.is_sent)
            request_id = next(sent, "")
        self._settle(request_id, report)

    def fail_all(self, error: UpscaledError) -> None:
        """End all questions: no answer will come."""
        for request_id in list(self._open):
            self._settle(request_id, error)

    def _settle(self, request_id: str, outcome: dict[str, Any] | UpscaledError) -> None:
        question = self._open.pop(request_id, None)
        if question is None:
            return
        if question.timer is not None:
            question.timer.cancel()
        if isinstance(outcome, UpscaledError):
            question.answer.set_exception(outcome)
        else:
            question.answer.set_result(outcome)
