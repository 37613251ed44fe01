/** What of a run is looked at, and what a page that says nothing begins with. Pure. */
import type { JobView } from "@/shared/api/types";
import { isActive, isTerminal } from "@/shared/status";

export interface Selection {
  jobId: string;
  /** Null: the whole job. */
  stepIndex: number | null;
}

const FAILED: ReadonlySet<string> = new Set(["failed", "timed_out_stale"]);

/** The failed step of a failed run; the running job of a live one; else the first job (PD-125, PD-129). */
export function initialSelection(jobs: readonly JobView[]): Selection | null {
  const failed = jobs.find((job) => FAILED.has(job.status));
  if (failed) {
    const step = failed.steps.find((each) => each.status === "failed");
    return { jobId: failed.jobId, stepIndex: step?.stepIndex ?? null };
  }
  const job =
    jobs.find((each) => isActive(each.status)) ??
    jobs.find((each) => !isTerminal(each.status) && each.status !== "pending") ??
    jobs[0];
  return job ? { jobId: job.jobId, stepIndex: null } : null;
}
