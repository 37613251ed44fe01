"""The log of one step as it grows: text that was not shown before, whatever happens in between."""

from collections.abc import Callable, Mapping
from typing import Any

from kici.cli.client import Client, Refused
from kici.spec.states import STEP_TERMINAL

PAGE = 20_000
CUT = " … [line cut at 64 KiB]"
_NO_LOG = frozenset({404, 410})
_PATIENCE = 10  # looks


class StepLog:
    """What was shown is counted, so that a lost connection goes on at the very line where it was."""

    def __init__(self, client: Client, run_path: str, job_id: str, step_index: int) -> None:
        self._client = client
        self._path = f"{run_path}/jobs/{job_id}/steps/{step_index}/logs"
        self._lines = 0  # whole ones
        self._rest = ""  # what was shown of the one after them
        self._missing = 0

    async def show(self, step: Mapping[str, Any], *, ended: bool, write: Callable[[str], None]) -> bool:
        """Whether every line of the step was written. A line that is not known to be whole is written as far as
        it goes, and asked for again. `ended`: the step's own status does not say it, but its job is over."""
        ended = ended or step["status"] in STEP_TERMINAL
        while True:
            if ended and step["logLines"] is not None and self._lines >= step["logLines"]:
                return True
            try:
                page = await self._client.get(self._path, offset=self._lines, limit=PAGE)
            except Refused as refused:
                if refused.status_code not in _NO_LOG:
                    raise
                # Nothing was written, or it was removed.
                self._missing += 1
                return ended and (not step["logLines"] or self._missing >= _PATIENCE)
            lines: list[str] = page["lines"]
            at_end = self._lines + len(lines) >= page["totalLines"]
            whole = page["complete"] or (ended and step["logLines"] is not None)
            if lines:
                for index in page["cut"]:
                    if whole or not at_end or index < len(lines) - 1:
                        lines[index] += CUT
                open_line = at_end and not whole
                text = "\n".join(lines) + ("" if open_line else "\n")
                write(text.removeprefix(self._rest))
                self._lines += len(lines) - open_line
                self._rest = lines[-1] if open_line else ""
            if at_end or not lines:
                return ended or page["complete"]
