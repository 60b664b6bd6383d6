"""kombu's Redis transport, for machines that hold their deliveries by a lease. It differs in five
things.

It takes a message and notes it as taken in one step. kombu takes it by BRPOP and notes it after
that, and a machine that is killed in between takes the message with it.

A connection that closes puts back only what does not run here. What runs goes on over a lost
connection and keeps its lease; if its acknowledgement is lost, its record ends the next delivery.
kombu's own way starts running jobs again elsewhere, or ends the worker with an `AttributeError`.

A Redis that takes no writes for now (its memory or its disk is full) ends no worker. What was not
acknowledged comes again after its lease, and its record ends that delivery.

The time of a lease is Redis' own. By its own clock, a machine that is fast would put back what
others run.

A message that no worker can read is dropped. Celery's worker would exit, and so would the next one,
because the message comes again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import orjson
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from upscaled_queue.celerymessage import UnreadableMessageError, read_item
from upscaled_queue.job import level_of
from upscaled_queue.outages import is_outage

# KEYS: lists, the first to be emptied first; then the hash and the index of what is taken.
# The hash has what kombu writes there. The time is Redis' own, as in `scripts`. Answers with the
# list, the item, and 1 if it was noted. What `read_item` refuses is not noted, because it is not to
# come again; nor is what cjson cannot read.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
for at = 1, #KEYS - 2 do
  local item = redis.call('RPOP', KEYS[at])
  if item then
    local is_read, message = pcall(cjson.decode, item)
    local properties = is_read and type(message) == 'table' and message.properties
    local route = type(properties) == 'table' and properties.delivery_info
    local is_noted = type(route) == 'table' and type(properties.delivery_tag) == 'string'
    if is_noted then
      redis.call('ZADD', KEYS[#KEYS], now, properties.delivery_tag)
      redis.call('HSET', KEYS[#KEYS - 1], properties.delivery_tag, '[' .. item .. ','
        .. cjson.encode(route.exchange) .. ',' .. cjson.encode(route.routing_key) .. ']')
    end
    return {KEYS[at], item, is_noted and 1 or 0}
  end
end
return false
"""

# After a refusal. The answer comes at once, so the next question would too.
_REFUSED_PAUSE_S = 0.25

# An idle machine looks at all lists so often. It also wakes when a job of the default priority
# comes: only one list can be waited for.
_LOOK_S = 0.5


@contextmanager
def _refusals_pass() -> Iterator[None]:
    """Ignore that Redis refuses a write for now."""
    try:
        yield
    except ResponseError as error:
        if not is_outage(error):
            raise


class QoS(redis.QoS):
    """Knows what runs here, by delivery tags."""

    running: Callable[[], Collection[str]] = staticmethod(lambda: ())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note it here, and in Redis unless the script that took it has done that."""
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Remove it here, and if Redis takes writes also there."""
        with _refusals_pass():
            self._remove_from_indices(delivery_tag).execute()  # type: ignore[no-untyped-call]
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The same, and put it back."""
        with _refusals_pass():
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
            return
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what does not run here."""
        for tag in self.running():
            self._delivered.pop(tag, None)
        with _refusals_pass():
            super().restore_unacked(client)  # type: ignore[no-untyped-call]

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back what machines that are gone held, by Redis' time: a machine whose clock is fast
        would put back what others run."""
        with _refusals_pass():
            with self.channel.conn_or_acquire() as client:
                seconds, micros = client.time()
            # kombu takes it from the time of this machine.
            ahead_s = time.time() - seconds - micros / 1e6
            self.visibility_timeout: float = self.channel.visibility_timeout + ahead_s
            super().restore_visible(*args, **options)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """Takes messages by a script, and knows that its connection may be gone."""

    QoS = QoS
    # False if the message that is delivered now has to be noted in Redis.
    is_noted = True
    _was_empty = False
    _command = ""
    # Called with a queue and the reason if a message of it was dropped.
    on_dropped: Callable[[str, str], None] = staticmethod(lambda queue, reason: None)  # noqa: ARG005

    @property
    def _is_lost(self) -> bool:
        return self.closed or self.connection is None or self.connection.client is None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """A second time too, after the connection has gone."""
        if not self._is_lost:
            super().close()  # type: ignore[no-untyped-call]

    def _list_of(self, queue: str, level: int) -> str:
        return str(self._q_for_pri(queue, level))  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's
        """Ask for a message; if there was none, wait for one without taking it."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        self._in_poll: Any = connection
        self._brpop_sent_at: Any = time.monotonic()
        if self._was_empty:
            # From a list to the same place of the same list: nothing moves.
            self._command = "BLMOVE"
            key = self._list_of(queues[0], level_of(0))
            connection.send_command("BLMOVE", key, key, "RIGHT", "RIGHT", _LOOK_S)
            return
        self._command = "EVAL"
        lists = [self._list_of(queue, level) for level in self.priority_steps for queue in queues]
        keys = [*lists, self.unacked_key, self.unacked_index_key]
        connection.send_command("EVAL", _TAKE, len(keys), *keys)

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver the message, if one was taken. Raises `Empty`."""
        connection = self.client.connection
        try:
            answer = self.client.parse_response(connection, self._command, **options)
        except self.connection_errors:
            connection.disconnect()
            raise
        except ResponseError as error:
            if not is_outage(error):
                raise
            time.sleep(_REFUSED_PAUSE_S)
            raise Empty from error
        finally:
            self._in_poll = None
        taken = answer if self._command == "EVAL" else None
        self._was_empty = self._command == "EVAL" and not taken
        if not taken:
            raise Empty
        key, item = (one.decode() if isinstance(one, bytes) else one for one in taken[:2])
        queue = key.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            message = read_item(item)
        except UnreadableMessageError as error:
            self._drop(item)
            self.on_dropped(queue, str(error))
            raise Empty from error
        self.is_noted = bool(taken[2])
        try:
            self.connection._deliver(message, queue)
        finally:
            self.is_noted = True
        return True

    def _drop(self, item: str) -> None:
        """Remove a message from what is noted as taken, if it has a tag."""
        with contextlib.suppress(ValueError, TypeError, LookupError):
            tag = orjson.loads(item)["properties"]["delivery_tag"]
            if isinstance(tag, str):
                self.qos.ack(tag)


class Transport(redis.Transport):
    """For Celery's `broker_transport`."""

    Channel = Channel
