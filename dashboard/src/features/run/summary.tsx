import { UnstyledButton } from "@mantine/core";
import { lazy, Suspense } from "react";
import type { JobView, RunDetailView, StepProjection } from "@/shared/api/types";
import { at, plural } from "@/shared/format";
import { isActive, isTerminal, jobDisplay, reasonInWords, statusLook } from "@/shared/status";
import { Fact, Facts } from "@/shared/ui/facts";
import { JsonTree } from "@/shared/ui/json-tree";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { AbsoluteTime, Duration } from "@/shared/ui/time";
import { readContext } from "./context";
import { Drift, Inputs, LabelChip, SecretOutputs } from "./metadata";
import { Annotation, Rules } from "./rules";
import classes from "./run.module.css";
import type { Selection } from "./selection";
import { checkLook } from "./step-kinds";
import { jobLabel } from "./tree-model";

const MarkdownText = lazy(async () => ({ default: (await import("./markdown")).MarkdownText }));

interface SummaryProps {
  detail: RunDetailView;
  job: JobView | null;
  onSelect: (selection: Selection) => void;
}

export function Summary({ detail, job, onSelect }: SummaryProps) {
  return (
    <div className={classes.summary} data-testid="summary">
      <Annotations detail={detail} onSelect={onSelect} />
      <Drifts detail={detail} onSelect={onSelect} />
      <StepSummaries detail={detail} onSelect={onSelect} />
      {job ? <JobSummary job={job} /> : null}
      <RunSummary detail={detail} onSelect={onSelect} />
    </div>
  );
}

type Told = Pick<SummaryProps, "detail" | "onSelect">;

/** Every step of the run with its job, in the order in which they are shown everywhere. */
function steps({ jobs }: RunDetailView): { job: JobView; step: StepProjection }[] {
  return jobs.flatMap((job) => job.steps.map((step) => ({ job, step })));
}

/** Where something was said: leads there. */
function Place({
  job,
  step,
  onSelect,
}: {
  job: JobView;
  step: StepProjection;
  onSelect: SummaryProps["onSelect"];
}) {
  return (
    <UnstyledButton
      className={classes.place}
      onClick={() => onSelect({ jobId: job.jobId, stepIndex: step.stepIndex })}
    >
      <StatusIcon status={step.status} size={14} />
      <span>{jobLabel(job)}</span>
      <span className={classes.placeMark}>›</span>
      <span>{step.stepName}</span>
    </UnstyledButton>
  );
}

const RANKS = ["error", "warning", "notice"];

function Annotations({ detail, onSelect }: Told) {
  const told = steps(detail).filter(({ step }) => step.annotations.length > 0);
  if (told.length === 0) return null;
  const counts = RANKS.map((level) => {
    const count = told.reduce(
      (sum, { step }) => sum + step.annotations.filter((each) => each.level === level).length,
      0,
    );
    return count > 0 ? plural(count, level) : null;
  });
  return (
    <section className={classes.contexts} data-testid="annotations">
      <h2>
        Annotations <span className="dim">{counts.filter(Boolean).join(", ")}</span>
      </h2>
      {told.map(({ job, step }) => (
        <div key={`${job.jobId}:${step.stepIndex}`} className={classes.told}>
          <Place job={job} step={step} onSelect={onSelect} />
          <ul className={classes.annotations}>
            {step.annotations
              .map((annotation, index) => ({ annotation, index }))
              .sort((a, b) => rank(a.annotation.level) - rank(b.annotation.level))
              .map(({ annotation, index }) => (
                <Annotation key={index} annotation={annotation} run={detail.run} />
              ))}
          </ul>
        </div>
      ))}
    </section>
  );
}

function rank(level: string): number {
  const found = RANKS.indexOf(level);
  return found < 0 ? RANKS.length : found;
}

/** What a run in check mode found, and what one that applies has changed. */
function Drifts({ detail, onSelect }: Told) {
  const told = steps(detail).filter(({ step }) => step.driftSummary);
  if (told.length === 0) return null;
  return (
    <section className={classes.contexts}>
      <h2>{detail.run.checkMode === "apply" ? "Changes" : "What would change"}</h2>
      {told.map(({ job, step }) => {
        const look = checkLook(step.checkOutcome);
        return (
          <div key={`${job.jobId}:${step.stepIndex}`} className={classes.told}>
            <span className={classes.inline}>
              <Place job={job} step={step} onSelect={onSelect} />
              {look ? <Chip tone={look.tone}>{look.text}</Chip> : null}
            </span>
            <Drift text={step.driftSummary ?? ""} />
          </div>
        );
      })}
    </section>
  );
}

function StepSummaries({ detail, onSelect }: Told) {
  const told = steps(detail).filter(({ step }) => step.summary);
  if (told.length === 0) return null;
  return (
    <section className={classes.contexts} data-testid="summaries">
      <h2>Written by steps</h2>
      {told.map(({ job, step }) => (
        <article key={`${job.jobId}:${step.stepIndex}`} className={classes.article}>
          <h3>
            <Place job={job} step={step} onSelect={onSelect} />
          </h3>
          <div className={classes.articleBody}>
            <Suspense fallback={null}>
              <MarkdownText text={step.summary ?? ""} />
            </Suspense>
          </div>
        </article>
      ))}
    </section>
  );
}

function RunSummary({ detail, onSelect }: Pick<SummaryProps, "detail" | "onSelect">) {
  const { run, jobs } = detail;
  const started = at(run.startedAt);
  const created = Date.parse(run.createdAt);
  return (
    <>
      <Facts title="Run">
        <Fact label="Why it ran">{run.triggerReason}</Fact>
        <Fact label="Repository">{run.repoIdentifier}</Fact>
        <Fact label="Source">
          {run.source.name} <code className="dim">{run.source.routingKey}</code>
        </Fact>
        <Fact label="Triggered">
          <AbsoluteTime at={created} />
        </Fact>
        <Fact label="Waited">
          {started !== null ? (
            <Duration startedAt={null} durationMs={started - created} ticking={false} />
          ) : null}
        </Fact>
        <Fact label="Ran for">
          <Duration startedAt={started} durationMs={run.durationMs} ticking={isActive(run.displayStatus)} />
        </Fact>
        <Fact label="Concurrency">{run.concurrencyGroup ? <code>{run.concurrencyGroup}</code> : null}</Fact>
      </Facts>
      <Inputs inputs={run.inputs} />
      <Rules rules={run.rules} of="workflow" />
      <section className={classes.contexts}>
        <h2>{plural(jobs.length, "job")}</h2>
        <div className={classes.sideways}>
          <table className={classes.jobTable}>
            <thead>
              <tr>
                <th scope="col">Job</th>
                <th scope="col">Agent</th>
                <th scope="col">Runtime</th>
                <th scope="col">Steps</th>
                <th scope="col">Duration</th>
              </tr>
            </thead>
            <tbody>
              {jobs.map((job) => (
                <tr key={job.jobId}>
                  <td>
                    <UnstyledButton
                      className={classes.inline}
                      onClick={() => onSelect({ jobId: job.jobId, stepIndex: null })}
                    >
                      <StatusIcon status={jobDisplay(job)} size={14} />
                      {jobLabel(job)}
                    </UnstyledButton>
                  </td>
                  <td className="mono dim">{job.agentId ?? "—"}</td>
                  <td className="dim">{runtimeOf(job) ?? "—"}</td>
                  <td className="dim tabular">{stepCounts(job.steps)}</td>
                  <td className="dim">
                    <Duration
                      startedAt={at(job.startedAt)}
                      durationMs={job.durationMs}
                      ticking={isActive(job.status)}
                    />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </section>
    </>
  );
}

function runtimeOf(job: JobView): string | null {
  const { sandboxType, runtime } = readContext(job.context);
  const words = [
    sandboxType,
    runtime.os,
    runtime.arch,
    runtime.pythonVersion && `Python ${runtime.pythonVersion}`,
  ].filter(Boolean);
  return words.length > 0 ? words.join(" · ") : null;
}

function stepCounts(steps: readonly StepProjection[]): string {
  const done = steps.filter((step) => step.status === "success").length;
  return steps.length === 0 ? "—" : `${done} / ${steps.length}`;
}

function JobSummary({ job }: { job: JobView }) {
  const outputs = job.outputs && Object.keys(job.outputs).length > 0 ? job.outputs : null;
  const context = readContext(job.context);
  return (
    <>
      <Facts title={`Job: ${jobLabel(job)}`}>
        <Fact label="About">{job.description}</Fact>
        <Fact label="Status">{statusLook(jobDisplay(job)).label}</Fact>
        <Fact label="Waiting">{isTerminal(job.status) ? null : job.waitingReason}</Fact>
        <Fact label={job.status === "skipped" ? "Skipped" : "Error"}>
          {reasonInWords(job.errorMessage)}
        </Fact>
        <Fact label="Agent">{job.agentId ? <code>{job.agentId}</code> : null}</Fact>
        <Fact label="Labels">
          {job.runsOnLabels.length > 0 ? (
            <span className={classes.chips}>
              {job.runsOnLabels.map((label) => (
                <LabelChip key={label} label={label} />
              ))}
            </span>
          ) : null}
        </Fact>
        <Fact label="Runtime">{runtimeOf(job)}</Fact>
        <Fact label="Directory">
          {context.workingDirectory ? <code>{context.workingDirectory}</code> : null}
        </Fact>
        <Fact label="Git ref">{context.gitRef ? <code>{context.gitRef}</code> : null}</Fact>
        <Fact label="Dependencies">{context.depCacheStatus}</Fact>
        <Fact label="SDK">{context.sdkVersion}</Fact>
      </Facts>
      <Rules rules={job.rules} of="job" />
      {outputs ? (
        <section className={classes.contexts}>
          <h2>Outputs</h2>
          <JsonTree value={outputs} />
        </section>
      ) : null}
      {job.secretOutputKeys.length > 0 ? (
        <section className={classes.contexts}>
          <h2>Secret outputs</h2>
          <SecretOutputs keys={job.secretOutputKeys} />
        </section>
      ) : null}
      {context.envVars.length > 0 ? (
        <section className={classes.contexts}>
          <h2>Environment</h2>
          <table className={classes.envTable}>
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">Value</th>
                <th scope="col">From</th>
              </tr>
            </thead>
            <tbody>
              {context.envVars.map(({ name, value, category }) => (
                <tr key={name}>
                  <td>
                    <code>{name}</code>
                  </td>
                  <td>
                    <code>{value}</code>
                  </td>
                  <td>
                    <Chip tone={category === "user" ? "held" : "neutral"}>{category}</Chip>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      ) : null}
    </>
  );
}
