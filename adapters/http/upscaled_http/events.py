"""Server-Sent Events of one job, and of all jobs of an owner.

The data is the job as it is now, not the change since the last event: a slow reader skips states
and misses no end. The first event comes at once. A job's stream ends with its last event, whose id
is `end`: if a client reconnects with that id, the answer is 204, so it stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from upscaled_http.records import Record
from upscaled_http.watching import Feed, Watchers

MEDIA_TYPE = "text/event-stream"
LAST_ID = "end"

# Proxies close a connection that is silent for about half a minute.
PING_S = 15.0
_PING = b": ping\n\n"
_REMOVED = b'event: removed\ndata: {"job_id":"%s"}\n\n'
# The least time between two events of the stream of all jobs.
_TURN_S = 0.05


def event_of(record: Record, name: str | None = None) -> bytes:
    """One event. name: by default the job's status decides."""
    if name is None:
        name = "progress" if record.status == "processing" else record.status
    last = f"\nid: {LAST_ID}" if record.has_ended and name != "job" else ""
    return b"event: %s\ndata: %s%s\n\n" % (name.encode(), record.body(), last.encode())


async def job_events(watchers: Watchers, record: Record) -> AsyncIterator[bytes]:
    """The events of one job, until the job or the server ends."""
    with watchers.job(record.job_id) as news:
        while True:
            news.clear()
            yield event_of(record)
            if record.has_ended or watchers.is_closed:
                return
            while not await _is_set(news, PING_S):
                yield _PING


async def owner_events(
    watchers: Watchers, owner: str, records: list[Record]
) -> AsyncIterator[bytes]:
    """The newest state of each of an owner's jobs, the open ones first, until the server ends.

    A job that its owner deletes is an event `removed`.
    """
    with watchers.owner(owner) as feed:
        yield b": open\n\n" + b"".join(event_of(record, "job") for record in records)
        while not feed.is_closed:
            if not await _is_set(feed.news, PING_S):
                yield _PING
                continue
            yield _events_of(feed)
            await asyncio.sleep(_TURN_S)


def _events_of(feed: Feed) -> bytes:
    return b"".join(
        _REMOVED % record.job_id.encode() if record.is_deleted else event_of(record, "job")
        for record in feed.take()
    )


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
