/** The same commit once more: a button, and the way from a run to those that came of it. */
import { Button, Group, Menu, Modal, Text, Tooltip } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { ApiError } from "@/shared/api/client";
import type { RunProjection } from "@/shared/api/types";
import { shortRef, shortSha } from "@/shared/format";
import { isTerminal } from "@/shared/status";
import { ChevronDownIcon, RepeatIcon } from "@/shared/ui/icons";
import { errorText, TraceId } from "@/shared/ui/page";
import { type RerunMode, rerunRun, rerunsQuery } from "./queries";
import classes from "./run.module.css";

/** What the server refuses, in words that say what to do next. */
function refusalInWords(error: unknown): string {
  if (!(error instanceof ApiError)) return errorText(error);
  switch (error.code) {
    case "rerun_cooldown":
      return "This run was started again a moment ago. Wait a few seconds, then try once more.";
    case "lock_gone":
      return "This run is too old: what it was planned from is no longer kept. Push the commit again instead.";
    case "forbidden":
      return "You may not start runs in this organization.";
    default:
      return error.orchestratorAway
        ? "The orchestrator is offline. The run can be started again as soon as it is back."
        : `${error.message.replace(/^./, (letter) => letter.toUpperCase())}.`;
  }
}

const FAILED: ReadonlySet<string> = new Set(["failed", "error", "timed_out", "cancelled"]);

export function RerunButton({ orgId, run }: { orgId: string; run: RunProjection }) {
  const navigate = useNavigate();
  const cache = useQueryClient();
  const [asking, setAsking] = useState<RerunMode | null>(null);
  const rerun = useMutation({
    mutationFn: (mode: RerunMode) => rerunRun(orgId, run.runId, mode),
    onSuccess: ({ newRunId }) => {
      setAsking(null);
      void cache.invalidateQueries({ queryKey: rerunsQuery(orgId, run).queryKey });
      void navigate({ to: "/orgs/$orgId/runs/$runId", params: { orgId, runId: newRunId } });
    },
  });
  if (!isTerminal(run.status)) return null;
  if (run.isTestRun) {
    return (
      <Tooltip label="A test run brought its own working tree along: run it again from there, with kici run remote">
        <Button
          variant="default"
          leftSection={<RepeatIcon size={13} />}
          data-disabled
          aria-disabled="true"
          data-testid="rerun"
        >
          Re-run
        </Button>
      </Tooltip>
    );
  }
  const ask = (mode: RerunMode) => {
    rerun.reset();
    setAsking(mode);
  };
  const onlyFailed = asking === "failed";
  return (
    <>
      {FAILED.has(run.displayStatus) && run.jobCount > 0 ? (
        <Menu position="bottom-end" width={230}>
          <Menu.Target>
            <Button
              variant="default"
              leftSection={<RepeatIcon size={13} />}
              rightSection={<ChevronDownIcon size={12} />}
              data-testid="rerun"
            >
              Re-run
            </Button>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => ask("failed")}>
              Failed jobs only
              <div className={classes.sub}>What succeeded is carried over</div>
            </Menu.Item>
            <Menu.Item onClick={() => ask("all")}>
              All jobs
              <div className={classes.sub}>From the beginning</div>
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      ) : (
        <Button
          variant="default"
          leftSection={<RepeatIcon size={13} />}
          onClick={() => ask("all")}
          data-testid="rerun"
        >
          Re-run
        </Button>
      )}
      <Modal
        opened={asking !== null}
        onClose={() => setAsking(null)}
        title={onlyFailed ? "Re-run the failed jobs?" : "Re-run all jobs?"}
      >
        <Text size="sm">
          Starts <strong>{run.workflowName}</strong> again on{" "}
          {run.sha ? (
            <>
              commit <code>{shortSha(run.sha)}</code> of {run.branch ?? shortRef(run.ref)}
            </>
          ) : (
            (run.branch ?? shortRef(run.ref))
          )}
          , as a new run with the same event.{" "}
          {onlyFailed ? "Jobs that succeeded keep their results." : null}
        </Text>
        {rerun.error ? (
          <Text size="sm" c="var(--tone-failed)" mt="sm" role="alert">
            {refusalInWords(rerun.error)}
            {rerun.error instanceof ApiError && rerun.error.traceId ? (
              <TraceId id={rerun.error.traceId} />
            ) : null}
          </Text>
        ) : null}
        <Group justify="flex-end" mt="lg">
          <Button variant="default" onClick={() => setAsking(null)}>
            Not now
          </Button>
          <Button loading={rerun.isPending} onClick={() => rerun.mutate(asking ?? "all")} data-autofocus>
            Re-run
          </Button>
        </Group>
      </Modal>
    </>
  );
}

/** From a re-run to its original, and from an original to its re-runs. */
export function Lineage({ orgId, run }: { orgId: string; run: RunProjection }) {
  const reruns = useQuery({ ...rerunsQuery(orgId, run), enabled: isTerminal(run.status) }).data ?? [];
  const newest = reruns[0];
  const navigate = useNavigate();
  const to = (runId: string) => ({ to: "/orgs/$orgId/runs/$runId" as const, params: { orgId, runId } });
  return (
    <>
      {run.parentRunId ? (
        <Link {...to(run.parentRunId)} className={classes.lineage} data-testid="parent">
          <RepeatIcon size={13} /> Re-run of #{run.parentRunId.slice(-8)}
        </Link>
      ) : null}
      {newest && reruns.length === 1 ? (
        <Link {...to(newest.runId)} className={classes.lineage} data-testid="child">
          <RepeatIcon size={13} /> Re-run as #{newest.runId.slice(-8)}
        </Link>
      ) : null}
      {newest && reruns.length > 1 ? (
        <Menu position="bottom-start" width={260}>
          <Menu.Target>
            <button type="button" className={classes.lineage} data-testid="child">
              <RepeatIcon size={13} /> Re-run {reruns.length} times <ChevronDownIcon size={11} />
            </button>
          </Menu.Target>
          <Menu.Dropdown>
            {reruns.map((each) => (
              <Menu.Item key={each.runId} onClick={() => void navigate(to(each.runId))}>
                <code>#{each.runId.slice(-8)}</code> <span className="dim">{each.displayStatus}</span>
              </Menu.Item>
            ))}
          </Menu.Dropdown>
        </Menu>
      ) : null}
    </>
  );
}
