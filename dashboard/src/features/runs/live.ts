/** How one changed run changes the lists that show it. Pure: same object back means no change. */
import type { RunGroup, RunGroupList, RunList } from "@/shared/api/types";
import { isTerminal } from "@/shared/status";
import type { RunProjection } from "@/ws.gen";

const ARRIVALS_KEPT = 100;

/** Late news never takes a finished run back to unfinished. */
function newer(old: RunProjection, next: RunProjection): RunProjection {
  return isTerminal(old.status) && !isTerminal(next.status) ? old : next;
}

export function patchRuns(runs: RunProjection[], run: RunProjection): RunProjection[] {
  const index = runs.findIndex((each) => each.runId === run.runId);
  const old = runs[index];
  if (!old) return runs;
  const next = newer(old, run);
  return next === old ? runs : runs.with(index, next);
}

export function patchList(list: RunList, run: RunProjection): RunList {
  const runs = patchRuns(list.runs, run);
  return runs === list.runs ? list : { ...list, runs };
}

export function patchGroups(list: RunGroupList, run: RunProjection): RunGroupList {
  let changed = false;
  const groups = list.groups.map((group) => {
    const runs = patchRuns(group.runs, run);
    if (runs === group.runs) return group;
    changed = true;
    return { ...group, runs, statuses: countStatuses(runs) };
  });
  return changed ? { ...list, groups } : list;
}

export function countStatuses(runs: RunProjection[]): RunGroup["statuses"] {
  const counts: Record<string, number> = {};
  for (const run of runs) counts[run.displayStatus] = (counts[run.displayStatus] ?? 0) + 1;
  return counts;
}

export function addArrival(arrivals: RunProjection[], run: RunProjection): RunProjection[] {
  if (arrivals.some((each) => each.runId === run.runId)) return patchRuns(arrivals, run);
  return [run, ...arrivals].slice(0, ARRIVALS_KEPT);
}
