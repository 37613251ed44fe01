import { Button, Group, Modal, Text, Tooltip } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { ApiError } from "@/shared/api/client";
import type { RunProjection } from "@/shared/api/types";
import { at, plural, shortRef, shortSha } from "@/shared/format";
import { commitUrl } from "@/shared/provider-links";
import { isActive, isTerminal } from "@/shared/status";
import { Command } from "@/shared/ui/copy";
import {
  BranchIcon,
  ClockIcon,
  CommitIcon,
  EyeCheckIcon,
  FlaskIcon,
  StopIcon,
  UserIcon,
  WarningIcon,
} from "@/shared/ui/icons";
import { errorText, TraceId } from "@/shared/ui/page";
import { Chip, StatusBadge } from "@/shared/ui/status";
import { Duration, RelativeTime } from "@/shared/ui/time";
import { TriggerIcon } from "@/shared/ui/trigger";
import { cancelRun } from "./queries";
import { Lineage, RerunButton } from "./rerun";
import classes from "./run.module.css";
import { CHECK_MODES } from "./run-kinds";

interface HeaderProps {
  orgId: string;
  run: RunProjection;
  extra?: ReactNode;
}

export function RunHeader({ orgId, run, extra }: HeaderProps) {
  const url = commitUrl(run);
  const message = run.commitMessage?.split("\n", 1)[0];
  return (
    <header className={classes.header}>
      <Breadcrumbs orgId={orgId} run={run} />
      <div className={classes.headline}>
        <h1 className={classes.title}>{run.workflowName}</h1>
        <StatusBadge status={run.displayStatus} />
        {CHECK_MODES[run.checkMode] ? (
          <Tooltip label="Nothing is changed: steps only say what they would do">
            <span className={classes.mode} data-tone="held" data-testid="check-mode">
              <EyeCheckIcon size={13} />
              {CHECK_MODES[run.checkMode]}
            </span>
          </Tooltip>
        ) : null}
        {run.isTestRun ? (
          <Tooltip label="Started with kici run remote, from somebody's working tree">
            <span className={classes.mode} data-tone="neutral" data-testid="test-run">
              <FlaskIcon size={13} />
              test run
            </span>
          </Tooltip>
        ) : null}
        <Lineage orgId={orgId} run={run} />
        <div className={classes.headerActions}>
          {extra}
          <CancelButton orgId={orgId} run={run} />
          <RerunButton orgId={orgId} run={run} />
        </div>
      </div>
      <div className={classes.headerMeta}>
        <span className={classes.inline}>
          <TriggerIcon event={run.triggerEvent} reason={run.triggerReason} />
          {message ? <span className={classes.message}>{message}</span> : null}
        </span>
        {run.branch || run.ref ? (
          <span className={classes.inline}>
            <BranchIcon size={14} />
            <span className="truncate">{run.branch ?? shortRef(run.ref)}</span>
          </span>
        ) : null}
        {run.sha ? (
          <span className={classes.inline}>
            <CommitIcon size={14} />
            {url ? (
              <a className={classes.link} href={url} target="_blank" rel="noopener noreferrer">
                <code>{shortSha(run.sha)}</code>
              </a>
            ) : (
              <code>{shortSha(run.sha)}</code>
            )}
          </span>
        ) : null}
        <span className={classes.inline} data-testid="run-duration">
          <Duration
            startedAt={at(run.startedAt)}
            durationMs={run.durationMs}
            ticking={isActive(run.displayStatus)}
            fallback="not started"
          />
        </span>
        <span className={classes.inline}>
          <RelativeTime at={Date.parse(run.createdAt)} focusable />
        </span>
        {run.triggeredBy ? (
          <span className={classes.inline}>
            <UserIcon size={14} />
            {run.triggeredBy}
          </span>
        ) : null}
        {run.cancelledBy ? <Chip>Cancelled by {run.cancelledBy}</Chip> : null}
        {run.waitingReason && !isTerminal(run.status) && !isActive(run.displayStatus) ? (
          <span className={classes.waiting} data-tone="queued" data-testid="waiting">
            <ClockIcon size={14} />
            {run.waitingReason}
          </span>
        ) : null}
      </div>
    </header>
  );
}

/** Runs › provider › owner/repo › sha › #run › workflow; each leads to the list it names. */
function Breadcrumbs({ orgId, run }: { orgId: string; run: RunProjection }) {
  const to = "/orgs/$orgId/runs" as const;
  const params = { orgId };
  return (
    <nav className={classes.crumbs} aria-label="Breadcrumb">
      <Link to={to} params={params}>
        Runs
      </Link>
      <Link to={to} params={params} search={{ source: [run.source.routingKey] }} title={run.source.name}>
        {run.provider}
      </Link>
      <Link to={to} params={params} search={{ repository: [run.repoIdentifier] }}>
        {run.repoIdentifier}
      </Link>
      {run.sha ? (
        <Link to={to} params={params} search={{ sha: run.sha }}>
          <code>{shortSha(run.sha)}</code>
        </Link>
      ) : null}
      <Link to="/orgs/$orgId/runs/$runId" params={{ orgId, runId: run.runId }} title={run.runId}>
        <code>#{run.runId.slice(-8)}</code>
      </Link>
      <Link to={to} params={params} search={{ workflow: [run.workflowName] }}>
        {run.workflowName}
      </Link>
    </nav>
  );
}

function CancelButton({ orgId, run }: { orgId: string; run: RunProjection }) {
  const cache = useQueryClient();
  const [asking, setAsking] = useState(false);
  const force = run.status === "cancelling";
  const cancel = useMutation({
    mutationFn: () => cancelRun(orgId, run.runId, force),
    onSuccess: ({ agentsNotified, pendingCancelled }) => {
      setAsking(false);
      notifications.show({
        message: `${force ? "Killing" : "Cancelling"} ${run.workflowName}: ${plural(
          agentsNotified,
          "running job",
        )}, ${plural(pendingCancelled, "waiting job")}`,
      });
    },
    onError: (error) => {
      // Somebody was faster: what is shown was old.
      if (error instanceof ApiError && error.status === 409) setAsking(false);
    },
    onSettled: () => cache.invalidateQueries({ queryKey: ["org", orgId, "run", run.runId] }),
  });
  if (isTerminal(run.status)) return null;
  const verb = force ? "Force cancel" : "Cancel";
  return (
    <>
      <Button
        variant="default"
        leftSection={<StopIcon size={13} />}
        onClick={() => {
          cancel.reset();
          setAsking(true);
        }}
        data-testid="cancel"
      >
        {verb}
      </Button>
      <Modal opened={asking} onClose={() => setAsking(false)} title={`${verb} this run?`}>
        <Text size="sm">
          {force ? (
            <>
              Kills every process of <strong>{run.workflowName}</strong> at once. Cancel hooks and clean-up
              do not run.
            </>
          ) : (
            <>
              Stops <strong>{run.workflowName}</strong> on {run.branch ?? shortRef(run.ref)}. Running steps
              are asked to end, then their hooks run.
            </>
          )}
        </Text>
        {cancel.error ? (
          <Text size="sm" c="red" mt="sm" role="alert">
            {errorText(cancel.error)}
            {cancel.error instanceof ApiError && cancel.error.traceId ? (
              <TraceId id={cancel.error.traceId} />
            ) : null}
          </Text>
        ) : null}
        <Group justify="flex-end" mt="lg">
          <Button variant="default" onClick={() => setAsking(false)}>
            Keep running
          </Button>
          <Button color="red" loading={cancel.isPending} onClick={() => cancel.mutate()} data-autofocus>
            {verb} run
          </Button>
        </Group>
      </Modal>
    </>
  );
}

const INIT_TITLES: Record<string, string> = {
  secret_resolution: "Secret context resolution failed",
  install_secrets: "Install-secrets resolution rejected",
  lock_resolution: "Lock-file / dependency resolution failed",
  build_coordination: "Build coordination failed",
  environment_rules: "Rejected by environment protection rules",
  dynamic_eval: "Dynamic / deferred-init evaluation failed",
  no_agent: "No agent available to run this job",
  matrix_expansion: "Matrix expansion failed",
};

/** Why a run failed, in words, and the commands that tell more. */
export function FailureBanner({ run }: { run: RunProjection }) {
  const failure = run.initFailure;
  const message = failure?.message ?? run.failureReason ?? run.timeoutReason;
  if (!message || run.displayStatus === "success" || run.displayStatus === "cancelled") return null;
  const title = failure
    ? (INIT_TITLES[failure.category] ?? "The run could not start")
    : run.displayStatus === "timed_out"
      ? "Timed out"
      : "Failed";
  return (
    <div className={classes.failure} role="alert" data-testid="failure">
      <WarningIcon size={16} className={classes.failureIcon} />
      <div className={classes.failureText}>
        <strong>{title}</strong>
        {failure?.jobName ? <span className="dim"> in {failure.jobName}</span> : null}
        <Tooltip label={message} disabled={message.length < 200}>
          <div className={classes.failureMessage}>{message}</div>
        </Tooltip>
      </div>
      <div className={classes.failureCommand}>
        <Command text={`kici runs show ${run.runId}`} />
      </div>
    </div>
  );
}
