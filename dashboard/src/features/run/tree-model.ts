/** The job tree as rows. Pure. */
import type { JobView, StepProjection } from "@/shared/api/types";
import { type AnyStatus, isHookStep, jobDisplay, worst } from "@/shared/status";

export type TreeRow =
  | {
      kind: "group";
      key: string;
      level: 1;
      label: string;
      status: AnyStatus;
      jobs: JobView[];
      open: boolean;
    }
  | { kind: "job"; key: string; level: 1 | 2; label: string; setup: boolean; job: JobView; open: boolean }
  | {
      kind: "step";
      key: string;
      level: 2 | 3;
      label: string;
      badge: string | null;
      job: JobView;
      step: StepProjection;
    };

const SETUP = [
  ["__init__", "Init"],
  ["__build__", "Build"],
  ["__dynamic__", "Evaluate"],
] as const;

export function isSetupJob(job: Pick<JobView, "jobName">): boolean {
  return SETUP.some(([prefix]) => job.jobName.startsWith(prefix));
}

export function jobLabel(job: Pick<JobView, "jobName" | "displayName">): string {
  for (const [prefix, word] of SETUP) {
    if (job.jobName.startsWith(prefix)) return `${word}: ${job.jobName.slice(prefix.length)}`;
  }
  return job.displayName;
}

const HOOKS: Record<string, string> = {
  on_cancel: "on cancel",
  on_success: "on success",
  on_failure: "on failure",
  cleanup: "cleanup",
  before_step: "before step",
  after_step: "after step",
};

export function stepBadge(step: Pick<StepProjection, "stepType">): string | null {
  if (step.stepType.startsWith("cache:")) return "cache";
  if (!isHookStep(step)) return null;
  const name = step.stepType.replace(/^hook:?/, "").replaceAll("-", "_");
  return HOOKS[name] ?? (name || "hook");
}

export const groupKey = (base: string) => `group:${base}`;
export const jobKey = (jobId: string) => `job:${jobId}`;
export const stepKey = (jobId: string, index: number) => `step:${jobId}:${index}`;

/** Rows on show, in order. Variants of one job come together under a parent. */
export function treeRows(jobs: readonly JobView[], isOpen: (key: string) => boolean): TreeRow[] {
  const rows: TreeRow[] = [];
  const groups = Map.groupBy(
    jobs.filter((job) => job.variantKind !== null),
    (job) => job.baseJobName,
  );
  const done = new Set<string>();
  const addJob = (job: JobView, level: 1 | 2) => {
    const key = jobKey(job.jobId);
    const open = job.steps.length > 0 && isOpen(key);
    rows.push({ kind: "job", key, level, label: jobLabel(job), setup: isSetupJob(job), job, open });
    if (!open) return;
    for (const step of job.steps) {
      rows.push({
        kind: "step",
        key: stepKey(job.jobId, step.stepIndex),
        level: level === 1 ? 2 : 3,
        label: step.stepName,
        badge: stepBadge(step),
        job,
        step,
      });
    }
  };
  for (const job of jobs) {
    const variants = job.variantKind === null ? undefined : groups.get(job.baseJobName);
    if (!variants) {
      addJob(job, 1);
      continue;
    }
    if (done.has(job.baseJobName)) continue;
    done.add(job.baseJobName);
    const key = groupKey(job.baseJobName);
    const open = isOpen(key);
    rows.push({
      kind: "group",
      key,
      level: 1,
      label: `${job.baseJobName} (${variants.length} ${variants.length === 1 ? "variant" : "variants"})`,
      status: worst(variants.map(jobDisplay)),
      jobs: variants,
      open,
    });
    if (open) for (const variant of variants) addJob(variant, 2);
  }
  return rows;
}
