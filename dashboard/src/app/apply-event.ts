/**
 * The one place where live events enter the query cache.
 *
 * Every event is a whole object, so applying it twice is harmless and applying it late is guarded by
 * the patch functions (a finished run never becomes unfinished again).
 */
import type { QueryClient } from "@tanstack/react-query";
import type { LogHub } from "@/features/logs/hub";
import { bringsNewJobs, patchDetail } from "@/features/run/live";
import { runDetailKey } from "@/features/run/queries";
import { addArrival, patchGroups, patchList, patchRuns } from "@/features/runs/live";
import { arrivalsQuery, runGroupsKey, runListKey } from "@/features/runs/queries";
import type { RunDetailView, RunGroupList, RunList } from "@/shared/api/types";
import { linkQuery, setLink } from "@/shared/live/link";
import { recordEvent } from "@/shared/live/recent";
import type { RunChanged, ToBrowser } from "@/ws.gen";

export function applyEvent(cache: QueryClient, logs: LogHub, event: ToBrowser): void {
  switch (event.type) {
    case "run.changed":
      applyRunChanged(cache, event);
      return;
    case "orchestrator.status": {
      setLink(cache, event.orgId, { connected: event.connected, clusterName: event.clusterName });
      // What the orchestrator answers itself was cached or refused while it was away.
      if (event.connected) {
        void cache.invalidateQueries({ queryKey: ["org", event.orgId] });
        logs.orchestratorReturned();
      }
      return;
    }
    case "status.subscribed": {
      const known = cache.getQueryData(linkQuery(event.orgId).queryKey);
      setLink(cache, event.orgId, {
        connected: event.orchestratorConnected,
        clusterName: known?.clusterName ?? null,
      });
      // What failed while the connection was down is asked for again. The first time it is everything:
      // changes between the page's first answers and this moment were sent to nobody.
      void cache.invalidateQueries({
        queryKey: ["org", event.orgId],
        predicate: (query) => !known || query.state.status === "error",
      });
      if (event.orchestratorConnected) logs.orchestratorReturned();
      return;
    }
    case "resync":
      void cache.invalidateQueries({ queryKey: ["org", event.orgId] });
      return;
    case "log.lines":
      logs.lines(event);
      return;
    case "log.gap":
      logs.gap(event);
      return;
    case "log.stream.terminated":
      logs.ended(event);
      return;
    case "auth.success":
    case "auth.failure":
    case "pong":
    case "error":
      return; // the socket's own business
    default:
      event satisfies never;
  }
}

function applyRunChanged(cache: QueryClient, event: RunChanged): void {
  recordEvent(event);
  const { orgId, runId, run } = event;
  if (run) {
    cache.setQueriesData<RunList>({ queryKey: runListKey(orgId) }, (list) => list && patchList(list, run));
    cache.setQueriesData<RunGroupList>(
      { queryKey: runGroupsKey(orgId) },
      (list) => list && patchGroups(list, run),
    );
    cache.setQueryData(arrivalsQuery(orgId).queryKey, (runs = []) =>
      event.isNew ? addArrival(runs, run) : patchRuns(runs, run),
    );
  }
  const key = runDetailKey(orgId, runId);
  const detail = cache.getQueryData<RunDetailView>(key);
  if (!detail) return;
  cache.setQueryData<RunDetailView>(key, patchDetail(detail, event));
  if (bringsNewJobs(detail, event)) void cache.invalidateQueries({ queryKey: key });
}
