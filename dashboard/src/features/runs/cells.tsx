/** What a run shows of itself in the table, in a card and in a commit group. */
import { Tooltip } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import { at, shortRef, shortSha } from "@/shared/format";
import { commitUrl } from "@/shared/provider-links";
import { isActive, isTerminal } from "@/shared/status";
import { BranchIcon, EyeCheckIcon, FlaskIcon, RepeatIcon } from "@/shared/ui/icons";
import { StatusBadge } from "@/shared/ui/status";
import { Duration, RelativeTime } from "@/shared/ui/time";
import type { RunProjection } from "@/ws.gen";
import classes from "./runs.module.css";

export interface CellProps {
  orgId: string;
  run: RunProjection;
}

export function RunStatus({ run }: { run: RunProjection }) {
  const reason =
    run.failureReason ??
    run.timeoutReason ??
    (isTerminal(run.status) ? null : run.waitingReason) ??
    (run.displayStatus === "cancelled" && run.cancelledBy ? `Cancelled by ${run.cancelledBy}` : null);
  return <StatusBadge status={run.displayStatus} reason={reason} />;
}

const CHECK_MARKS: Record<string, string> = {
  check: "Check mode: nothing is changed",
  "check-fail-on-drift": "Check mode: fails when something would change",
};

/** The link that covers its whole row, so that a middle click anywhere opens a tab. */
export function RunLink({ orgId, run }: CellProps) {
  return (
    <Link
      to="/orgs/$orgId/runs/$runId"
      params={{ orgId, runId: run.runId }}
      className={classes.rowLink}
      title={`${run.workflowName} · ${run.repoIdentifier}`}
    >
      <span className={classes.workflow}>{run.workflowName}</span>
      {run.parentRunId ? (
        <Tooltip label="Re-run of an earlier run">
          <span className={classes.mark}>
            <RepeatIcon size={13} title="Re-run" />
          </span>
        </Tooltip>
      ) : null}
      {CHECK_MARKS[run.checkMode] ? (
        <Tooltip label={CHECK_MARKS[run.checkMode]}>
          <span className={classes.mark} data-tone="held" data-mark="check">
            <EyeCheckIcon size={13} title={CHECK_MARKS[run.checkMode]} />
          </span>
        </Tooltip>
      ) : null}
      {run.isTestRun ? (
        <Tooltip label="Test run of a working tree">
          <span className={classes.mark} data-mark="test">
            <FlaskIcon size={13} title="Test run" />
          </span>
        </Tooltip>
      ) : null}
      <span className={classes.repo}>{run.repoIdentifier}</span>
    </Link>
  );
}

export function RunBranch({ run }: { run: RunProjection }) {
  const name = run.branch ?? shortRef(run.ref);
  if (!name) return <span className="dim">—</span>;
  return (
    <span className={classes.branch} title={run.ref}>
      <BranchIcon size={13} />
      <span className="truncate">{name}</span>
    </span>
  );
}

export function RunCommit({ orgId, run }: CellProps) {
  if (!run.sha) return <span className="dim">—</span>;
  const url = commitUrl(run);
  return (
    <span className={classes.commit}>
      {url ? (
        <a className={`mono ${classes.sha}`} href={url} target="_blank" rel="noopener noreferrer">
          {shortSha(run.sha)}
        </a>
      ) : (
        <Link
          className={`mono ${classes.sha}`}
          to="/orgs/$orgId/runs"
          params={{ orgId }}
          search={{ sha: run.sha }}
          title="All runs of this commit"
        >
          {shortSha(run.sha)}
        </Link>
      )}
      {run.commitMessage ? (
        <span className={classes.message}>{run.commitMessage.split("\n", 1)[0]}</span>
      ) : null}
    </span>
  );
}

export function RunDuration({ run }: { run: RunProjection }) {
  return (
    <Duration
      startedAt={at(run.startedAt)}
      durationMs={run.durationMs}
      ticking={isActive(run.displayStatus)}
    />
  );
}

export function RunTime({ run }: { run: RunProjection }) {
  return <RelativeTime at={Date.parse(run.createdAt)} />;
}
