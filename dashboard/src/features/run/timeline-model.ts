/** Where bars begin and end, and where the axis is marked. Pure. */
import type { JobView } from "@/shared/api/types";
import { at } from "@/shared/format";
import { isTerminal } from "@/shared/status";

export interface JobSpan {
  queued: number | null;
  started: number | null;
  ended: number | null;
}

export function span(job: JobView, now: number): JobSpan {
  const queued = at(job.queuedAt);
  const started = at(job.startedAt);
  const completed = at(job.completedAt);
  const open = isTerminal(job.status) ? null : now;
  return { queued, started, ended: completed ?? open };
}

const STEPS_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000,
  600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000,
];

/** Round distances from the beginning, four to eight of them. */
export function ticks(wholeMs: number): number[] {
  const step = STEPS_MS.find((each) => wholeMs / each <= 7) ?? Math.ceil(wholeMs / 7);
  return Array.from({ length: Math.floor(wholeMs / step) + 1 }, (_, index) => index * step);
}
