/** Edges of the job graph and what hangs together with a node. Pure. */
import type { JobView } from "@/shared/api/types";

export interface Link {
  from: string;
  to: string;
  /** The edge lets the job run also when the upstream failed. */
  onFailure: boolean;
}

/** `needs` names jobs as written; each variant of an upstream is a node of its own. */
export function edges(jobs: readonly JobView[]): Link[] {
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
