import { UnstyledButton } from "@mantine/core";
import type { JobView, RunDetailView, StepProjection } from "@/shared/api/types";
import { at, plural } from "@/shared/format";
import { isActive, jobDisplay, statusLook } from "@/shared/status";
import { Fact, Facts } from "@/shared/ui/facts";
import { JsonTree } from "@/shared/ui/json-tree";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { AbsoluteTime, Duration } from "@/shared/ui/time";
import { readContext } from "./context";
import { LabelChip } from "./metadata";
import classes from "./run.module.css";
import type { Selection } from "./selection";
import { jobLabel } from "./tree-model";

interface SummaryProps {
  detail: RunDetailView;
  job: JobView | null;
  onSelect: (selection: Selection) => void;
}

export function Summary({ detail, job, onSelect }: SummaryProps) {
  return (
    <div className={classes.summary} data-testid="summary">
      {job ? <JobSummary job={job} /> : null}
      <RunSummary detail={detail} onSelect={onSelect} />
    </div>
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
      </Facts>
      <section className={classes.contexts}>
        <h2>{plural(jobs.length, "job")}</h2>
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
        <Fact label="Status">{statusLook(jobDisplay(job)).label}</Fact>
        <Fact label="Waiting for">{job.waitingReason}</Fact>
        <Fact label="Error">{job.errorMessage}</Fact>
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
      {outputs ? (
        <section className={classes.contexts}>
          <h2>Outputs</h2>
          <JsonTree value={outputs} />
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
