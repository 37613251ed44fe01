"""`ctx.cache`: caches by hand. What goes wrong is a warning, never the step's failure (AU-58); only a path
that no cache may have is the author's mistake and raises."""

import os
from collections.abc import Mapping
from typing import Any

from kici.runner.activity import Activity
from kici.runner.archives import BadPathError
from kici.runner.caches import Caches, label
from kici.runner.facts import JobFacts
from kici.sdk.calls import TrackedCall
from kici.sdk.definitions import Cache
from kici.sdk.readers import given_cache
from kici.sdk.results import CacheHit


class StepCaches:
    def __init__(self, activity: Activity, facts: JobFacts) -> None:
        self._activity = activity
        self._facts = facts

    def restore(self, spec: Cache | Mapping[str, Any], /) -> TrackedCall[CacheHit]:
        cache = given_cache(spec)
        return self._activity.tracked(self._restore(cache), f"ctx.cache.restore({label(cache)!r})")

    def save(self, spec: Cache | Mapping[str, Any], /) -> TrackedCall[bool]:
        cache = given_cache(spec)
        return self._activity.tracked(self._save(cache), f"ctx.cache.save({label(cache)!r})")

    async def _restore(self, spec: Cache) -> CacheHit:
        try:
            return await caches_of(self._activity).restore(spec)
        except BadPathError:
            raise
        except Exception as error:
            self._activity.print(f"warning: cache {label(spec)!r} was not restored: {error}")
            return CacheHit(hit=False)

    async def _save(self, spec: Cache) -> bool:
        if self._facts.checks_only:
            self._activity.print(f"check mode: cache {label(spec)!r} is not saved")
            return False
        try:
            return await caches_of(self._activity).save(spec)
        except BadPathError:
            raise
        except Exception as error:
            self._activity.print(f"warning: cache {label(spec)!r} was not saved: {error}")
            return False


def caches_of(activity: Activity) -> Caches:
    """For the files that commands of this activity see."""
    return Caches(
        requests=activity.services.requests,
        workspace=activity.services.execute.workspace,
        home=activity.env.get("HOME") or os.path.expanduser("~"),
        say=activity.print,
    )
