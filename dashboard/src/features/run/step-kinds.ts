/** What kinds of rows a job has besides the steps its author wrote, and in which order they ran. Pure. */
import type { StepProjection } from "@/shared/api/types";
import type { Tone } from "@/shared/status";

export interface StepBadge {
  kind: "hook" | "cache" | "init" | "check";
  text: string;
  tone: Tone;
  title: string;
}

const CACHE_TONES: Record<string, Tone> = {
  hit: "success",
  saved: "success",
  miss: "queued",
  error: "failed",
};

const CHECKS: Record<string, [string, Tone, string]> = {
  applied: ["applied", "success", "It differed, and was changed"],
  in_sync: ["in sync", "neutral", "Nothing to change"],
  would_change: ["would change", "held", "It differs; check mode changes nothing"],
  no_check: ["no check", "neutral", "Check mode cannot tell: the step has no check"],
};

export function checkLook(outcome: string | null): { text: string; tone: Tone; title: string } | null {
  if (!outcome) return null;
  const [text, tone, title] = CHECKS[outcome] ?? [
    outcome.replaceAll("_", " "),
    "neutral" as const,
    outcome,
  ];
  return { text, tone, title };
}

export const isCache = (step: Pick<StepProjection, "stepType">) => step.stepType.startsWith("cache:");

/** What stands beside a step's name in the tree. */
export function badgeOf(step: Pick<StepProjection, "stepType" | "checkOutcome">): StepBadge | null {
  const { stepType, checkOutcome } = step;
  if (isCache(step)) {
    const text = checkOutcome ?? "cache";
    return { kind: "cache", text, tone: CACHE_TONES[text] ?? "neutral", title: `Cache: ${text}` };
  }
  if (stepType.startsWith("hook")) {
    const name = stepType.replace(/^hook:?/, "").replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    return { kind: "hook", text: "hook", tone: "held", title: `Hook${name ? `: ${name}` : ""}` };
  }
  if (stepType === "init") return { kind: "init", text: "init", tone: "neutral", title: "Setup" };
  const check = checkLook(checkOutcome);
  return check && { kind: "check", ...check };
}

/** Rows that no author wrote: the machinery's own. */
export function isSetupStep(step: Pick<StepProjection, "stepType">): boolean {
  return ["prepare", "init", "build", "evaluate", "outside"].includes(step.stepType) || isCache(step);
}

/** The kind of a row in words, null for an ordinary step. */
export function kindInWords(step: Pick<StepProjection, "stepType">): string | null {
  if (step.stepType === "step") return null;
  const [kind = "", name] = step.stepType.split(":");
  return name ? `${kind}: ${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}` : kind;
}

const FIRST_EXTRA = 1_000_000; // inits, hooks and caches count from here, in an order of their own

/**
 * Steps as they ran. Indexes put steps in the author's order, and inits, hooks and caches after all of them:
 * these go behind the last step that began before they did.
 */
export function inOrder(steps: readonly StepProjection[]): StepProjection[] {
  const own = steps.filter((step) => step.stepIndex < FIRST_EXTRA);
  const extras = steps.filter((step) => step.stepIndex >= FIRST_EXTRA);
  if (extras.length === 0) return own;
  const behind = new Map<number, StepProjection[]>();
  for (const extra of extras) {
    const place = own.findLastIndex((step) => beganBefore(step, extra));
    behind.set(place, [...(behind.get(place) ?? []), extra]);
  }
  const sorted = (list: StepProjection[] = []) =>
    list.toSorted((a, b) => time(a.startedAt) - time(b.startedAt) || a.stepIndex - b.stepIndex);
  return [...sorted(behind.get(-1)), ...own.flatMap((step, index) => [step, ...sorted(behind.get(index))])];
}

const time = (at: string | null) => (at === null ? Number.POSITIVE_INFINITY : Date.parse(at));

function beganBefore(step: StepProjection, extra: StepProjection): boolean {
  if (step.stepIndex < 0) return true; // preparation is over before anything else begins
  if (step.startedAt === null) return false;
  const difference = time(step.startedAt) - time(extra.startedAt);
  if (difference !== 0) return difference < 0;
  return extra.stepType !== "cache:restore" && extra.stepType !== "hook:beforeStep";
}
