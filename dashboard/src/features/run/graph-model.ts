/** Edges of the job graph and what hangs together with a node. Pure. */
import type { JobView } from "@/shared/api/types";

export interface Link {
  from: string;
  to: string;
  /** The edge lets the job run also when the upstream failed. */
  onFailure: boolean;
}

/**
 * `needs` names jobs as written; each variant of an upstream is a node of its own. The run's hooks wait for
 * everything, all wait for a build, and who waits for a group waits for its generator, too: of those only edges
 * that add something.
 */
export function edges(jobs: readonly JobView[]): Link[] {
  const all = allEdges(jobs);
  const kinds = new Map(jobs.map((job) => [job.jobId, job.kind]));
  const below = Map.groupBy(all, (link) => link.from);
  return all.filter(({ from, to }) => {
    if (kinds.get(to) !== "hooks" && !["build", "dynamic"].includes(kinds.get(from) ?? "")) return true;
    return !below.get(from)?.some((other) => other.to !== to && leadsTo(below, other.to, to));
  });
}

function leadsTo(below: ReadonlyMap<string, readonly Link[]>, from: string, to: string): boolean {
  const seen = new Set([from]);
  for (const id of seen) {
    if (id === to) return true;
    for (const link of below.get(id) ?? []) seen.add(link.to);
  }
  return false;
}

export interface Place {
  x: number;
  y: number;
}

/** The new layout moved as a whole, so that what was there stands as near to its old place as it can. */
export function settle(
  before: ReadonlyMap<string, Place>,
  after: ReadonlyMap<string, Place>,
): Map<string, Place> {
  const shifts = [...after].flatMap(([id, place]) => {
    const old = before.get(id);
    return old ? [{ x: old.x - place.x, y: old.y - place.y }] : [];
  });
  const middle = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
  const x = middle(shifts.map((shift) => shift.x));
  const y = middle(shifts.map((shift) => shift.y));
  return new Map([...after].map(([id, place]) => [id, { x: place.x + x, y: place.y + y }]));
}

function allEdges(jobs: readonly JobView[]): Link[] {
  const byName = new Map<string, string[]>();
  const add = (name: string, id: string) => byName.set(name, [...(byName.get(name) ?? []), id]);
  for (const job of jobs) {
    add(job.jobName, job.jobId);
    if (job.baseJobName !== job.jobName) add(job.baseJobName, job.jobId);
  }
  return jobs.flatMap((job) =>
    job.needs.flatMap((need) =>
      (byName.get(need.upstreamName) ?? [])
        .filter((from) => from !== job.jobId)
        .map((from) => ({ from, to: job.jobId, onFailure: need.runOn.includes("failed") })),
    ),
  );
}

/** The node with all its ancestors and descendants. */
export function reach(links: readonly Link[], start: string): Set<string> {
  const found = new Set([start]);
  const walk = (next: (link: Link) => [string, string]) => {
    const queue = [start];
    for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
      for (const link of links) {
        const [near, far] = next(link);
        if (near !== id || found.has(far)) continue;
        found.add(far);
        queue.push(far);
      }
    }
  };
  walk((link) => [link.from, link.to]);
  walk((link) => [link.to, link.from]);
  return found;
}
