/** What stands around the lines: heads of steps, what is said while there are none, how it ended. */
import { UnstyledButton } from "@mantine/core";
import type { JobView, StepProjection } from "@/shared/api/types";
import { at, plural } from "@/shared/format";
import { isActive, isTerminal, jobDisplay, reasonInWords, statusLook } from "@/shared/status";
import { ChevronRightIcon, DownloadIcon } from "@/shared/ui/icons";
import { StatusIcon } from "@/shared/ui/status";
import { Duration } from "@/shared/ui/time";
import classes from "./logs.module.css";
import type { LogStream } from "./stream";

export function NotStarted({ job, step }: { job: JobView; step: StepProjection | null }) {
  const status = step?.status ?? jobDisplay(job);
  const ended = isTerminal(job.status);
  return (
    <div className={classes.viewer}>
      <div className={classes.note} role="status">
        <span className={classes.noteIcon}>
          <StatusIcon status={ended ? jobDisplay(job) : status} size={22} />
        </span>
        {ended ? (
          <>
            <strong>No output</strong>
            <span>
              {job.initFailure?.message ??
                reasonInWords(job.errorMessage) ??
                (job.status === "skipped" ? "This job was skipped." : "It ended before any step began.")}
            </span>
          </>
        ) : isActive(job.status) ? (
          <>
            <strong>{step ? "This step has not started" : "Preparing"}</strong>
            <span>
              {step ? "Its output appears here as soon as it runs." : "The agent is getting the job ready."}
            </span>
          </>
        ) : (
          <>
            <strong>
              {job.status === "pending"
                ? "Waiting to be queued"
                : job.status === "queued"
                  ? "Waiting for agent"
                  : "Waiting"}
            </strong>
            <span>
              {job.waitingReason ?? "The job starts as soon as an agent with its labels is free."}
            </span>
          </>
        )}
      </div>
    </div>
  );
}

interface StepHeaderProps {
  step: StepProjection;
  stream: LogStream;
  open: boolean;
  onToggle: () => void;
  rawUrl: string;
}

export function StepHeader({ step, stream, open, onToggle, rawUrl }: StepHeaderProps) {
  return (
    <div className={classes.header} data-step={step.stepIndex}>
      <UnstyledButton className={classes.headerToggle} onClick={onToggle} aria-expanded={open}>
        <ChevronRightIcon size={14} className={classes.chevron} data-open={open || undefined} />
        <StatusIcon status={step.status} size={15} />
        <span className="truncate">{step.stepName}</span>
      </UnstyledButton>
      <span className={classes.headerMeta}>
        {stream.loaded ? <span className="tabular">{plural(stream.total, "line")}</span> : null}
        <Duration
          startedAt={at(step.startedAt)}
          durationMs={step.durationMs}
          ticking={isActive(step.status)}
          fallback=""
        />
        <a href={rawUrl} download aria-label={`Download log of ${step.stepName}`} title="Download log">
          <DownloadIcon size={14} />
        </a>
      </span>
    </div>
  );
}

interface SummaryProps {
  steps: readonly StepProjection[];
  streams: readonly LogStream[];
  combined: boolean;
}

export function LogContext({ steps, streams, combined }: SummaryProps) {
  const total = streams.reduce((sum, stream) => sum + stream.total, 0);
  const step = combined ? null : steps[0];
  return (
    <>
      {step ? <StatusIcon status={step.status} size={14} /> : null}
      <strong className="truncate">{step ? step.stepName : "All steps"}</strong>
      <span className="tabular">{plural(total, "line")}</span>
    </>
  );
}

export function CompletionBanner({ job, steps, streams, combined }: SummaryProps & { job: JobView }) {
  const step = steps[0];
  const status = combined ? jobDisplay(job) : step?.status;
  if (!status || !isTerminal(status) || streams.some((stream) => !stream.complete)) return null;
  const total = streams.reduce((sum, stream) => sum + stream.total, 0);
  const exitCode = combined ? null : (step?.exitCode ?? null);
  const message = combined ? job.errorMessage : (step?.errorMessage ?? null);
  return (
    <div className={classes.banner} role="status" data-testid="completion">
      <StatusIcon status={status} size={14} />
      <strong>{statusLook(status).label}</strong>
      <span className="tabular">{plural(total, "line")}</span>
      {exitCode !== null && exitCode !== 0 ? <span>exit code {exitCode}</span> : null}
      {message ? <span className="truncate">{message}</span> : null}
    </div>
  );
}
