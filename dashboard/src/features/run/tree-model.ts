/** The job tree as rows. Pure. */
import type { JobView, StepProjection } from "@/shared/api/types";
import { type AnyStatus, isTerminal, jobDisplay, reasonInWords, worst } from "@/shared/status";
import { badgeOf, isCache, isSetupStep, type StepBadge } from "./step-kinds";

export type TreeRow =
  | {
      kind: "group";
      key: string;
      level: number;
      label: string;
      status: AnyStatus;
      jobs: JobView[];
      open: boolean;
    }
  | {
      kind: "job";
      key: string;
      level: number;
      label: string;
      setup: boolean;
      /** One line below the name: why it was skipped, or what it waits for. */
      note: string | null;
      job: JobView;
      open: boolean;
    }
  | {
      kind: "step";
      key: string;
      level: number;
      label: string;
      setup: boolean;
      note: string | null;
      badge: StepBadge | null;
      /** The parallel group that it stands in, and which end of it it is. */
      band: { name: string; first: boolean; last: boolean } | null;
      job: JobView;
      step: StepProjection;
    };

export function isSetupJob(job: Pick<JobView, "kind">): boolean {
  return job.kind !== "job";
}

/** Setup rows come with a name for people: "Init: test", "Evaluate: pages", "Hooks: ci". */
export function jobLabel(job: Pick<JobView, "displayName">): string {
  return job.displayName;
}

/** What a generator's group is called. */
export function generatorName(job: Pick<JobView, "displayName">): string {
  return job.displayName.replace(/^[^:]*: /, "");
}

/** The rule that said no, in one line; rules are asked in order and the first "no" is the last asked. */
export function refusal(rules: readonly { label: string; passed: boolean }[]): string | null {
  const last = rules.at(-1);
  return last && !last.passed ? `rule '${last.label}' said no` : null;
}

export function jobNote(job: JobView): string | null {
  if (job.status === "skipped") return reasonInWords(job.errorMessage) ?? refusal(job.rules);
  return isTerminal(job.status) || job.startedAt ? null : job.waitingReason;
}

export function stepNote(step: StepProjection): string | null {
  return step.status === "skipped" ? (refusal(step.rules) ?? step.errorMessage) : null;
}

/** A cache's row says by its badge that it is one. */
export function stepLabel(step: Pick<StepProjection, "stepName" | "stepType">): string {
  const cache = /^cache:(\w+) \((.*)\)?$/.exec(step.stepName);
  return cache && isCache(step) ? `${cache[1]} ${cache[2]?.replace(/\)$/, "")}` : step.stepName;
}

function bandOf(steps: readonly StepProjection[], index: number) {
  const name = steps[index]?.groupId;
  if (!name) return null;
  const first = steps[index - 1]?.groupId !== name;
  return { name, first, last: steps[index + 1]?.groupId !== name };
}

export const groupKey = (base: string) => `group:${base}`;
export const jobKey = (jobId: string) => `job:${jobId}`;
export const stepKey = (jobId: string, index: number) => `step:${jobId}:${index}`;

/** The generator that made each job. Generated jobs take its place in the workflow's order. */
function generators(jobs: readonly JobView[]): Map<string, JobView> {
  const byPosition = new Map(
    jobs.filter((job) => job.kind === "dynamic").map((job) => [job.position, job]),
  );
  const made = new Map<string, JobView>();
  for (const job of jobs) {
    const generator = job.kind === "job" ? byPosition.get(job.position) : undefined;
    if (generator) made.set(job.jobId, generator);
  }
  return made;
}

const counted = (count: number, one: string) => `${count} ${count === 1 ? one : `${one}s`}`;

/** Rows on show, in order. Variants of one job come together under a parent, and so does what a generator made. */
export function treeRows(jobs: readonly JobView[], isOpen: (key: string) => boolean): TreeRow[] {
  const rows: TreeRow[] = [];
  const madeBy = generators(jobs);
  const made = Map.groupBy(
    jobs.filter((job) => madeBy.has(job.jobId)),
    (job) => madeBy.get(job.jobId)?.jobId,
  );

  const addJob = (job: JobView, level: number) => {
    const key = jobKey(job.jobId);
    const open = job.steps.length > 0 && isOpen(key);
    const setup = isSetupJob(job);
    rows.push({ kind: "job", key, level, label: jobLabel(job), setup, note: jobNote(job), job, open });
    if (!open) return;
    for (const [index, step] of job.steps.entries()) {
      const band = bandOf(job.steps, index);
      rows.push({
        kind: "step",
        key: stepKey(job.jobId, step.stepIndex),
        level: level + 1,
        label: stepLabel(step),
        setup: isSetupStep(step),
        note: stepNote(step) ?? (band?.first ? `in parallel: ${band.name}` : null),
        badge: badgeOf(step),
        band,
        job,
        step,
      });
    }
  };
  const addGroup = (key: string, level: number, label: string, members: JobView[]): boolean => {
    const open = isOpen(key);
    const status = worst(members.map(jobDisplay));
    rows.push({ kind: "group", key, level, label, status, jobs: members, open });
    return open;
  };
  const addAll = (list: readonly JobView[], level: number) => {
    const variants = Map.groupBy(
      list.filter((job) => job.variantKind !== null),
      (job) => job.baseJobName,
    );
    const done = new Set<string>();
    for (const job of list) {
      const siblings = job.variantKind === null ? undefined : variants.get(job.baseJobName);
      if (siblings) {
        if (done.has(job.baseJobName)) continue;
        done.add(job.baseJobName);
        const label = `${job.baseJobName} (${counted(siblings.length, "variant")})`;
        if (addGroup(groupKey(job.baseJobName), level, label, siblings))
          for (const sibling of siblings) addJob(sibling, level + 1);
        continue;
      }
      addJob(job, level);
      const children = made.get(job.jobId);
      if (!children) continue;
      const label = `${generatorName(job)} (${counted(children.length, "job")})`;
      if (addGroup(groupKey(job.jobId), level, label, children)) addAll(children, level + 1);
    }
  };
  addAll(
    jobs.filter((job) => !madeBy.has(job.jobId)),
    1,
  );
  return rows;
}
