/** What every status looks like and means, in one table (PD-101). Pure. */
import type { JobProjection, JobStatus, RunProjection, StepStatus } from "@/ws.gen";

export type Tone = "success" | "failed" | "running" | "queued" | "held" | "neutral";
export type Shape = "check" | "cross" | "spinner" | "clock" | "hand" | "slash" | "dash" | "dot" | "bang";
export type DisplayStatus = RunProjection["displayStatus"];

export interface StatusLook {
  label: string;
  tone: Tone;
  shape: Shape;
}

const look = (label: string, tone: Tone, shape: Shape): StatusLook => ({ label, tone, shape });

const LOOKS = {
  success: look("Success", "success", "check"),
  failed: look("Failed", "failed", "cross"),
  error: look("Error", "failed", "bang"),
  timed_out: look("Timed out", "failed", "clock"),
  timed_out_stale: look("Timed out", "failed", "clock"),
  running: look("Running", "running", "spinner"),
  cancelling: look("Cancelling", "running", "spinner"),
  recovering: look("Recovering", "running", "spinner"),
  queued: look("Queued", "queued", "clock"),
  pending: look("Pending", "queued", "dot"),
  held: look("Held", "held", "hand"),
  waiting: look("Waiting", "held", "hand"),
  cancelled: look("Cancelled", "neutral", "slash"),
  skipped: look("Skipped", "neutral", "dash"),
  drift_dropped: look("Dropped", "neutral", "dash"),
} satisfies Record<DisplayStatus | JobStatus | StepStatus, StatusLook>;

export type AnyStatus = keyof typeof LOOKS;

export function statusLook(status: AnyStatus): StatusLook {
  return LOOKS[status];
}

/** For statuses that arrive as plain strings (counts, filters). */
export function isStatus(text: string): text is AnyStatus {
  return Object.hasOwn(LOOKS, text);
}

export function jobDisplay(
  job: Pick<JobProjection, "status" | "timeoutReason" | "initFailure">,
): AnyStatus {
  if (job.status === "failed" && job.initFailure) return "error";
  if (job.status === "failed" && job.timeoutReason) return "timed_out";
  return job.status;
}

const TERMINAL: ReadonlySet<AnyStatus> = new Set<AnyStatus>([
  "success",
  "failed",
  "error",
  "timed_out",
  "timed_out_stale",
  "cancelled",
  "skipped",
  "drift_dropped",
]);

export function isTerminal(status: AnyStatus): boolean {
  return TERMINAL.has(status);
}

/** Something is executing right now: its duration ticks. */
export function isActive(status: AnyStatus): boolean {
  return LOOKS[status].tone === "running";
}

// Worst first: what a group of jobs or runs shows.
const SEVERITY: readonly AnyStatus[] = [
  "failed",
  "error",
  "timed_out",
  "timed_out_stale",
  "cancelling",
  "running",
  "recovering",
  "held",
  "waiting",
  "queued",
  "pending",
  "cancelled",
  "drift_dropped",
  "skipped",
  "success",
];

export function worst(statuses: Iterable<AnyStatus>): AnyStatus {
  const present = new Set(statuses);
  return SEVERITY.find((status) => present.has(status)) ?? "pending";
}

/** Statuses offered as run filters, in the order of the menu. */
export const FILTER_STATUSES: readonly DisplayStatus[] = [
  "success",
  "failed",
  "error",
  "timed_out",
  "running",
  "queued",
  "pending",
  "held",
  "cancelling",
  "cancelled",
  "skipped",
];

const TRIGGERS: Record<string, string> = {
  push: "Push",
  pr: "Pull request",
  pull_request: "Pull request",
  tag: "Tag",
  create: "Branch or tag created",
  delete: "Branch or tag deleted",
  comment: "Comment",
  review: "Review",
  review_comment: "Review comment",
  release: "Release",
  status: "Commit status",
  workflow_run: "Workflow run",
  fork: "Fork",
  star: "Star",
  watch: "Watch",
  dispatch: "Dispatch",
  schedule: "Schedule",
  manual: "Manual",
  manual_schedule: "Started by hand",
  generic_webhook: "Webhook",
  webhook: "Webhook",
  kici_event: "Event",
  workflow_complete: "Workflow completed",
  job_complete: "Job completed",
  lifecycle: "Lifecycle",
  rerun: "Re-run",
};

export function triggerLabel(event: string): string {
  return TRIGGERS[event] ?? event.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
}

/** Some reasons begin with a code that other programs look for; people read a sentence. */
export function reasonInWords(reason: string | null): string | null {
  const unmet = /^upstream_unmet: (.+) \((\w+)\)$/.exec(reason ?? "");
  return unmet ? `needs ${unmet[1]}, which ended as ${unmet[2]?.replaceAll("_", " ")}` : reason;
}
