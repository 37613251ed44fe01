import { Tooltip, UnstyledButton } from "@mantine/core";
import type { ReactNode } from "react";
import type { JobView, RunProjection, StepProjection } from "@/shared/api/types";
import { at, formatBytes, shortRef, shortSha } from "@/shared/format";
import { branchUrl, commitUrl, workflowUrl } from "@/shared/provider-links";
import { isActive, jobDisplay, statusLook, triggerLabel } from "@/shared/status";
import { CopyButton, useCopied } from "@/shared/ui/copy";
import { Fact, Facts } from "@/shared/ui/facts";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { AbsoluteTime, Duration } from "@/shared/ui/time";
import classes from "./run.module.css";
import { jobLabel } from "./tree-model";

interface MetadataProps {
  run: RunProjection;
  job: JobView | null;
  step: StepProjection | null;
}

export function Metadata({ run, job, step }: MetadataProps) {
  return (
    <div className={classes.metadata} data-testid="metadata">
      {step ? <StepFacts step={step} /> : null}
      {job ? <JobFacts job={job} /> : null}
      <RunFacts run={run} />
    </div>
  );
}

function Id({ value }: { value: string }) {
  return (
    <span className={classes.id}>
      <code className="truncate" title={value}>
        {value}
      </code>
      <CopyButton text={value} label="Copy id" />
    </span>
  );
}

function Outward({ href, children }: { href: string | null; children: ReactNode }) {
  if (!href) return children;
  return (
    <a className={classes.link} href={href} target="_blank" rel="noopener noreferrer">
      {children}
    </a>
  );
}

function Status({ status }: { status: Parameters<typeof statusLook>[0] }) {
  return (
    <span className={classes.inline}>
      <StatusIcon status={status} size={14} />
      {statusLook(status).label}
    </span>
  );
}

function instant(time: string | null): ReactNode {
  const value = at(time);
  return value === null ? null : <AbsoluteTime at={value} />;
}

function RunFacts({ run }: { run: RunProjection }) {
  return (
    <>
      <Facts title="Run">
        <Fact label="Run ID">
          <Id value={run.runId} />
        </Fact>
        <Fact label="Status">
          <Status status={run.displayStatus} />
        </Fact>
        <Fact label="Workflow">
          <Outward href={workflowUrl(run)}>{run.workflowName}</Outward>
          <div className={classes.sub}>
            <code>{run.workflowFile}</code>
          </div>
        </Fact>
        <Fact label="Trigger">{triggerLabel(run.triggerEvent)}</Fact>
        <Fact label="Why">{run.triggerReason}</Fact>
        <Fact label="Started by">{run.triggeredBy}</Fact>
        <Fact label="Cancelled by">{run.cancelledBy}</Fact>
        <Fact label="Repository">{run.repoIdentifier}</Fact>
        <Fact label="Branch">
          <Outward href={branchUrl(run)}>{run.branch ?? shortRef(run.ref)}</Outward>
        </Fact>
        <Fact label="Commit">
          {run.sha ? (
            <span className={classes.inline}>
              <Outward href={commitUrl(run)}>
                <code>{shortSha(run.sha)}</code>
              </Outward>
              <CopyButton text={run.sha} label="Copy commit SHA" />
            </span>
          ) : null}
        </Fact>
        <Fact label="Duration">
          <Duration
            startedAt={at(run.startedAt)}
            durationMs={run.durationMs}
            ticking={isActive(run.displayStatus)}
          />
        </Fact>
        <Fact label="Created">{instant(run.createdAt)}</Fact>
        <Fact label="Started">{instant(run.startedAt)}</Fact>
        <Fact label="Finished">{instant(run.completedAt)}</Fact>
        <Fact label="Logs">{run.logBytes > 0 ? formatBytes(run.logBytes) : null}</Fact>
      </Facts>
      <Facts title="Source">
        <Fact label="Name">
          {run.source.name}
          <div className={classes.sub}>
            <code>{run.source.routingKey}</code>
          </div>
        </Fact>
        <Fact label="Kind">{run.source.subtype.replaceAll("_", " ")}</Fact>
        <Fact label="Delivery">{run.deliveryId ? <Id value={run.deliveryId} /> : null}</Fact>
        <Fact label="Request">{run.requestId ? <Id value={run.requestId} /> : null}</Fact>
      </Facts>
    </>
  );
}

function JobFacts({ job }: { job: JobView }) {
  const matrix = job.matrixValues ? Object.entries(job.matrixValues) : [];
  return (
    <Facts title="Job">
      <Fact label="Name">{jobLabel(job)}</Fact>
      <Fact label="Status">
        <Status status={jobDisplay(job)} />
      </Fact>
      <Fact label="Waiting for">{job.waitingReason}</Fact>
      <Fact label="Agent">{job.agentId ? <code>{job.agentId}</code> : null}</Fact>
      <Fact label="Attempt">{job.attempt > 1 ? job.attempt : null}</Fact>
      <Fact label="Matrix">
        {matrix.length > 0 ? (
          <span className={classes.chips}>
            {matrix.map(([key, value]) => (
              <Chip key={key} mono>
                {key}={String(value)}
              </Chip>
            ))}
          </span>
        ) : null}
      </Fact>
      <Fact label="Labels">
        {job.runsOnLabels.length > 0 ? (
          <span className={classes.chips}>
            {job.runsOnLabels.map((label) => (
              <LabelChip key={label} label={label} />
            ))}
          </span>
        ) : null}
      </Fact>
      <Fact label="Needs">
        {job.needs.length > 0 ? job.needs.map((need) => need.upstreamName).join(", ") : null}
      </Fact>
      <Fact label="Duration">
        <Duration
          startedAt={at(job.startedAt)}
          durationMs={job.durationMs}
          ticking={isActive(job.status)}
        />
      </Fact>
      <Fact label="Queued">{instant(job.queuedAt)}</Fact>
      <Fact label="Started">{instant(job.startedAt)}</Fact>
      <Fact label="Finished">{instant(job.completedAt)}</Fact>
      <Fact label="Error">{job.errorMessage}</Fact>
      <Fact label="Job ID">
        <Id value={job.jobId} />
      </Fact>
    </Facts>
  );
}

/** A label copies itself when clicked. */
export function LabelChip({ label }: { label: string }) {
  const [copied, copy] = useCopied();
  return (
    <Tooltip
      label={copied ? "Copied!" : label.startsWith("kici:") ? "Set by KiCI · copy" : "Custom · copy"}
    >
      <UnstyledButton onClick={() => copy(label)} className={classes.labelChip}>
        <Chip mono tone={label.startsWith("kici:") ? "neutral" : "held"}>
          {label}
        </Chip>
      </UnstyledButton>
    </Tooltip>
  );
}

function StepFacts({ step }: { step: StepProjection }) {
  return (
    <Facts title="Step">
      <Fact label="Name">{step.stepName}</Fact>
      <Fact label="Index">{step.stepType === "step" ? step.stepIndex : null}</Fact>
      <Fact label="Kind">{step.stepType === "step" ? null : step.stepType.replace(":", ": ")}</Fact>
      <Fact label="Status">
        <Status status={step.status} />
      </Fact>
      <Fact label="Exit code">{step.exitCode}</Fact>
      <Fact label="Duration">
        <Duration
          startedAt={at(step.startedAt)}
          durationMs={step.durationMs}
          ticking={isActive(step.status)}
        />
      </Fact>
      <Fact label="Log">{step.logBytes ? formatBytes(step.logBytes) : null}</Fact>
      <Fact label="Error">{step.errorMessage}</Fact>
    </Facts>
  );
}
