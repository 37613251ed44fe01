/** How one event changes the detail of its run. Pure: same object back means no change. */
import type { JobView, RunDetailView } from "@/shared/api/types";
import { isTerminal } from "@/shared/status";
import type { JobProjection, RunChanged, StepProjection } from "@/ws.gen";

export function patchDetail(detail: RunDetailView, event: RunChanged): RunDetailView {
  if (event.runId !== detail.run.runId) return detail;
  const run =
    event.run && !(isTerminal(detail.run.status) && !isTerminal(event.run.status)) ? event.run : detail.run;
  const jobs = patchSteps(patchJobs(detail.jobs, event.jobs), event.steps);
  const known = new Set(detail.events.map(eventKey));
  const events = event.events.filter((each) => !known.has(eventKey(each)));
  return {
    ...detail,
    run,
    jobs,
    events: events.length > 0 ? [...detail.events, ...events] : detail.events,
  };
}

function eventKey(event: RunDetailView["events"][number]): string {
  return `${event.timestampMs}:${event.eventType}:${event.jobId}:${event.stepIndex}`;
}

/** What only the detail says of a job. */
const UNPLANNED = { description: "", place: null, stepPlaces: [] };

/** A job has come that the detail does not know: what its plan says is still to be asked for. */
export function bringsNewJobs(detail: RunDetailView, event: RunChanged): boolean {
  if (event.runId !== detail.run.runId) return false;
  const known = new Set(detail.jobs.map((job) => job.jobId));
  return event.jobs.some((job) => !known.has(job.jobId));
}

function patchJobs(jobs: JobView[], changes: JobProjection[]): JobView[] {
  if (changes.length === 0) return jobs;
  const byId = new Map(jobs.map((job) => [job.jobId, job]));
  for (const change of changes) {
    const old = byId.get(change.jobId);
    if (!old) byId.set(change.jobId, { ...change, ...UNPLANNED, steps: [], context: null });
    else if (isLate(old, change)) continue;
    // A new attempt starts with a clean sheet.
    else {
      const steps = old.steps.filter((step) => step.attempt >= change.attempt);
      byId.set(change.jobId, { ...old, ...change, steps });
    }
  }
  return [...byId.values()].sort(byPosition);
}

export function byPosition(a: JobProjection, b: JobProjection): number {
  // Ids are in the order of their making: a setup row, then the variants or jobs that it led to.
  const setup = Number(a.kind === "job") - Number(b.kind === "job");
  return a.position - b.position || setup || (a.jobId < b.jobId ? -1 : a.jobId > b.jobId ? 1 : 0);
}

function isLate(old: JobProjection, change: JobProjection): boolean {
  if (change.attempt !== old.attempt) return change.attempt < old.attempt;
  return isTerminal(old.status) && !isTerminal(change.status);
}

function patchSteps(jobs: JobView[], changes: StepProjection[]): JobView[] {
  if (changes.length === 0) return jobs;
  const byJob = Map.groupBy(changes, (step) => step.jobId);
  return jobs.map((job) => {
    const own = byJob.get(job.jobId)?.filter((step) => step.attempt >= job.attempt);
    if (!own || own.length === 0) return job;
    const byIndex = new Map(job.steps.map((step) => [step.stepIndex, step]));
    for (const step of own) {
      const old = byIndex.get(step.stepIndex);
      const late =
        old &&
        (step.attempt < old.attempt ||
          (step.attempt === old.attempt && isTerminal(old.status) && !isTerminal(step.status)));
      if (!late) byIndex.set(step.stepIndex, step);
    }
    return { ...job, steps: [...byIndex.values()].sort((a, b) => a.stepIndex - b.stepIndex) };
  });
}
