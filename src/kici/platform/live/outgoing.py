"""What waits to be written to one browser: control frames, org events, log lines. At most about 4 MiB.

Org events that pile up are merged per run; if even that is too much, one `resync` replaces them. Log
lines are dropped oldest first with `log.gap` (PD-71).
"""

import asyncio
from collections import deque

from kici.platform.live.hub import Published, merge_events
from kici.platform.live.watches import Subscription
from kici.protocol.browser_v1 import Resync, RunChanged, encode

MERGE_BYTES = 1 << 20
RESYNC_BYTES = 2 << 20
_CONTROL_FRAMES = 1_000


class Overrun(Exception):
    """The peer asks faster than it reads."""


class Outgoing:
    """Filled synchronously, drained by one writer."""

    def __init__(self) -> None:
        self._control: deque[str] = deque()
        self._status: deque[Published] = deque()
        self._status_bytes = 0
        self._merge_at = MERGE_BYTES
        self.subscriptions: dict[tuple[str, int], Subscription] = {}  # by job id, step index
        self.ready = asyncio.Event()

    def wake(self) -> None:
        self.ready.set()

    def control(self, text: str) -> None:
        """Raises Overrun."""
        if len(self._control) >= _CONTROL_FRAMES:
            raise Overrun
        self._control.append(text)
        self.ready.set()

    def org_event(self, published: Published) -> None:
        self._status.append(published)
        self._status_bytes += len(published.text)
        if self._status_bytes > self._merge_at:
            self._coalesce()
        self.ready.set()

    def _coalesce(self) -> None:
        """Events of one org between other kinds keep their place: only runs of RunChanged are merged."""
        merged: list[Published] = []
        batch: list[RunChanged] = []
        for published in self._status:
            event = published.event
            if isinstance(event, RunChanged) and (not batch or batch[0].org_id == event.org_id):
                batch.append(event)
                continue
            merged.extend(Published(one) for one in merge_events(batch))
            batch = []
            if isinstance(event, RunChanged):
                batch.append(event)
            else:
                merged.append(published)
        merged.extend(Published(one) for one in merge_events(batch))
        size = sum(len(published.text) for published in merged)
        if size > RESYNC_BYTES:
            newest = {published.event.org_id: published.event.seq for published in merged}
            self._status.clear()
            self._status_bytes = 0
            self._merge_at = MERGE_BYTES
            for org_id, seq in newest.items():
                self._control.append(encode(Resync(org_id=org_id, seq=seq)).decode())
            return
        self._status = deque(merged)
        self._status_bytes = size
        self._merge_at = max(MERGE_BYTES, size * 2)  # not again for each following event

    def drop_org(self, org_id: str) -> None:
        self._status = deque(published for published in self._status if published.event.org_id != org_id)
        self._status_bytes = sum(len(published.text) for published in self._status)

    def take(self) -> list[str]:
        """The next frames, fairly: all control, one event, one block of each stream. Empty: nothing."""
        frames = list(self._control)
        self._control.clear()
        if self._status:
            published = self._status.popleft()
            self._status_bytes -= len(published.text)
            if not self._status:
                self._merge_at = MERGE_BYTES
            frames.append(published.text)
        for key, subscription in list(self.subscriptions.items()):
            if subscription.ready:
                frames.extend(subscription.next_frames())
            if subscription.done:
                del self.subscriptions[key]
        return frames
