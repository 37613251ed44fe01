import { Tooltip, UnstyledButton } from "@mantine/core";
import { Fragment, type ReactNode } from "react";
import type { JobView, PlaceView, RunProjection, StepProjection } from "@/shared/api/types";
import { at, formatBytes, shortRef, shortSha } from "@/shared/format";
import { branchUrl, commitUrl, workflowUrl } from "@/shared/provider-links";
import { isActive, isTerminal, jobDisplay, reasonInWords, statusLook, triggerLabel } from "@/shared/status";
import { CopyButton, useCopied } from "@/shared/ui/copy";
import { Fact, Facts } from "@/shared/ui/facts";
import { KeyIcon } from "@/shared/ui/icons";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { AbsoluteTime, Duration } from "@/shared/ui/time";
import { Rules } from "./rules";
import classes from "./run.module.css";
import { CHECK_MODES } from "./run-kinds";
import { placeText, placeUrl, stepPlace } from "./source";
import { checkLook, kindInWords } from "./step-kinds";
import { jobLabel } from "./tree-model";

interface MetadataProps {
  run: RunProjection;
  job: JobView | null;
  step: StepProjection | null;
}

export function Metadata({ run, job, step }: MetadataProps) {
  return (
    <div className={classes.metadata} data-testid="metadata">
      {job && step ? <StepFacts step={step} run={run} place={stepPlace(job, step)} /> : null}
      {job ? <JobFacts job={job} run={run} /> : null}
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

/** At the repository's host where it has pages; to be copied into an editor in any case. */
function Place({ run, place }: { run: RunProjection; place: PlaceView }) {
  const text = placeText(place);
  return (
    <span className={classes.source} data-testid="source-place">
      <Outward href={placeUrl(run, place)}>
        <code>
          {text.split("/").map((part, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: parts of one path never move
            <Fragment key={index}>
              {index > 0 ? "/" : null}
              {index > 0 ? <wbr /> : null}
              {part}
            </Fragment>
          ))}
        </code>
      </Outward>
      <CopyButton text={text} label="Copy place" />
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
        <Fact label="Waiting">{isTerminal(run.status) ? null : run.waitingReason}</Fact>
        <Fact label="Mode">
          {CHECK_MODES[run.checkMode] ? <Chip tone="held">{CHECK_MODES[run.checkMode]}</Chip> : null}
        </Fact>
        <Fact label="Test run">{run.isTestRun ? "yes, of a working tree" : null}</Fact>
        <Fact label="Concurrency">{run.concurrencyGroup ? <code>{run.concurrencyGroup}</code> : null}</Fact>
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
      <Inputs inputs={run.inputs} />
      <Rules rules={run.rules} of="workflow" />
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

/** What a dispatch or a schedule was given. */
export function Inputs({ inputs }: { inputs: RunProjection["inputs"] }) {
  const entries = Object.entries(inputs);
  if (entries.length === 0) return null;
  return (
    <Facts title="Inputs">
      {entries.map(([name, value]) => (
        <Fact key={name} label={name}>
          {value === null ? <span className="dim">none</span> : <code>{shownValue(value)}</code>}
        </Fact>
      ))}
    </Facts>
  );
}

function shownValue(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Values of secret outputs never leave the orchestrator: this is all there is to see. */
export function SecretOutputs({ keys }: { keys: readonly string[] }) {
  return (
    <ul className={classes.secrets} aria-label="Secret outputs">
      {keys.map((key) => (
        <li key={key}>
          <KeyIcon size={12} />
          <code>{key}</code>
          <span className={classes.masked} role="img" aria-label="hidden">
            ••••••
          </span>
        </li>
      ))}
    </ul>
  );
}

interface JobFactsProps {
  run: RunProjection;
  job: JobView;
}

function JobFacts({ run, job }: JobFactsProps) {
  return (
    <>
      <JobRows run={run} job={job} />
      <Rules rules={job.rules} of="job" />
    </>
  );
}

const JOB_KINDS: Record<JobView["kind"], string | null> = {
  job: null,
  init: "Setup: functions of the workflow",
  build: "Setup: build",
  dynamic: "Setup: generator",
  hooks: "Hooks of the workflow",
};

function JobRows({ run, job }: JobFactsProps) {
  const matrix = job.matrixValues ? Object.entries(job.matrixValues) : [];
  return (
    <Facts title="Job">
      <Fact label="Name">
        {jobLabel(job)}
        {job.description ? (
          <div className={classes.about} data-testid="job-description">
            {job.description}
          </div>
        ) : null}
      </Fact>
      <Fact label="Defined in">{job.place ? <Place run={run} place={job.place} /> : null}</Fact>
      <Fact label="Kind">{JOB_KINDS[job.kind]}</Fact>
      <Fact label="Status">
        <Status status={jobDisplay(job)} />
      </Fact>
      <Fact label="Waiting">{isTerminal(job.status) ? null : job.waitingReason}</Fact>
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
      <Fact label={job.status === "skipped" ? "Skipped" : "Error"}>{reasonInWords(job.errorMessage)}</Fact>
      <Fact label="Secret outputs">
        {job.secretOutputKeys.length > 0 ? <SecretOutputs keys={job.secretOutputKeys} /> : null}
      </Fact>
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

interface StepFactsProps {
  run: RunProjection;
  step: StepProjection;
  place: PlaceView | null;
}

function StepFacts({ run, step, place }: StepFactsProps) {
  const check = checkLook(step.checkOutcome);
  return (
    <>
      <Facts title="Step">
        <Fact label="Name">{step.stepName}</Fact>
        <Fact label="Defined in">{place ? <Place run={run} place={place} /> : null}</Fact>
        <Fact label="Index">{step.stepType === "step" ? step.stepIndex : null}</Fact>
        <Fact label="Kind">{kindInWords(step)}</Fact>
        <Fact label="Status">
          <Status status={step.status} />
        </Fact>
        <Fact label={step.stepType.startsWith("cache:") ? "Cache" : "Check"}>
          {check ? (
            <span title={check.title}>
              <Chip tone={check.tone}>{check.text}</Chip>
            </span>
          ) : null}
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
        <Fact label="Secrets read">
          {step.secretsAccessed.length > 0 ? (
            <span className={classes.chips}>
              {step.secretsAccessed.map((name) => (
                <Chip key={name} mono>
                  {name}
                </Chip>
              ))}
            </span>
          ) : null}
        </Fact>
      </Facts>
      {step.driftSummary ? (
        <section className={classes.panelSection}>
          <h2>{step.checkOutcome === "applied" ? "What was changed" : "What would change"}</h2>
          <Drift text={step.driftSummary} />
        </section>
      ) : null}
      <Rules rules={step.rules} of="step" />
    </>
  );
}

/** As the author summed it up: never as markup. */
export function Drift({ text }: { text: string }) {
  return (
    <pre className={classes.drift} data-testid="drift">
      {text.split("\n").map((line, index) => (
        <span
          // biome-ignore lint/suspicious/noArrayIndexKey: lines of one text never move
          key={index}
          data-sign={/^[+]/.test(line) ? "plus" : /^[-−]/.test(line) ? "minus" : undefined}
        >
          {line}
          {"\n"}
        </span>
      ))}
    </pre>
  );
}
