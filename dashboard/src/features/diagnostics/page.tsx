import { queryOptions, useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { api, unwrap } from "@/shared/api/client";
import type { AgentView } from "@/shared/api/types";
import { at, formatCount, formatTicking, plural } from "@/shared/format";
import { OrchestratorError } from "@/shared/ui/away";
import { DataTable, SubLine } from "@/shared/ui/data-table";
import { ServerIcon } from "@/shared/ui/icons";
import { Empty, Page, SkeletonRows } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import { RelativeTime } from "@/shared/ui/time";
import classes from "./diagnostics.module.css";

export const diagnosticsQuery = (orgId: string) =>
  queryOptions({
    queryKey: ["org", orgId, "diagnostics"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/orgs/{orgId}/diagnostics", { params: { path: { orgId } }, signal })),
    refetchInterval: 10_000,
  });

export function DiagnosticsPage({ orgId }: { orgId: string }) {
  const query = useQuery(diagnosticsQuery(orgId));
  const data = query.data;
  return (
    <Page name="diagnostics" title="Diagnostics" subtitle="The orchestrator and the agents behind it">
      {query.isPending ? (
        <SkeletonRows rows={6} />
      ) : !data ? (
        <OrchestratorError error={query.error} retry={() => void query.refetch()} />
      ) : (
        <>
          <div className={classes.cards}>
            <Card label="Agents" value={formatCount(data.agents.filter((agent) => agent.connected).length)}>
              {plural(data.agents.filter((agent) => agent.busy).length, "busy", "busy")}
            </Card>
            <Card label="Running jobs" value={formatCount(data.runningJobs)} />
            <Card label="Queued jobs" value={formatCount(data.queuedJobs)} />
            <Card label="Inbox" value={formatCount(data.inboxDepth)}>
              webhooks to decide
            </Card>
            <Card label="Outbox" value={formatCount(data.outboxDepth)}>
              changes to report
            </Card>
          </div>
          {data.shortages.map((entry) => (
            <p key={entry.wanted} role="alert" style={{ color: "var(--tone-failed)" }}>
              {plural(entry.jobs, "job waits", "jobs wait")} for an agent with{" "}
              {entry.wanted || "any labels"}, which no connected agent fits: for up to{" "}
              {formatTicking(entry.waitingMs)}.
            </p>
          ))}
          <section className={classes.orchestrator} aria-label="Orchestrator">
            <ServerIcon size={18} />
            <strong>{data.clusterName}</strong>
            <span>
              <span className="dim">orchestrator:</span> <strong className="mono">{data.instanceId}</strong>
            </span>
            <Chip tone="success">connected</Chip>
            <Chip>{data.version}</Chip>
            <span className={`dim ${classes.end}`}>up {formatTicking(data.uptimeSeconds * 1000)}</span>
          </section>
          <h2 className={classes.heading}>{plural(data.agents.length, "agent")}</h2>
          <Agents agents={data.agents} />
        </>
      )}
    </Page>
  );
}

function Card({ label, value, children }: { label: string; value: string; children?: ReactNode }) {
  return (
    <div className={classes.card}>
      <span className={classes.cardLabel}>{label}</span>
      <span className={classes.cardValue}>{value}</span>
      <span className={classes.cardNote}>{children}</span>
    </div>
  );
}

function Agents({ agents }: { agents: readonly AgentView[] }) {
  if (agents.length === 0) {
    return (
      <Empty icon={ServerIcon} title="No agents">
        Jobs wait until an agent connects with a token from <code>kici-admin agents tokens</code>.
      </Empty>
    );
  }
  return (
    <DataTable
      label="Agents"
      rows={agents}
      rowKey={(agent) => agent.agentId}
      columns={[
        {
          label: "Agent",
          cell: (agent) => (
            <>
              <span className="mono">{agent.agentId}</span>
              <SubLine>{agent.hostname}</SubLine>
            </>
          ),
        },
        {
          label: "State",
          width: "120px",
          cell: (agent) => (
            <Chip tone={!agent.connected ? "failed" : agent.busy ? "running" : "success"}>
              {!agent.connected ? "disconnected" : agent.busy ? "busy" : "idle"}
            </Chip>
          ),
        },
        {
          label: "Platform",
          width: "130px",
          cell: (agent) => (
            <span className="dim">
              {agent.platform}/{agent.arch}
            </span>
          ),
        },
        {
          label: "Labels",
          cell: (agent) => (
            <span className={classes.labels}>
              {agent.labels.map((label) => (
                <Chip key={label} mono tone={label.startsWith("kici:") ? "neutral" : "held"}>
                  {label}
                </Chip>
              ))}
            </span>
          ),
        },
        { label: "Version", width: "90px", cell: (agent) => <span className="dim">{agent.version}</span> },
        {
          label: "Last seen",
          width: "140px",
          cell: (agent) => {
            const seen = at(agent.lastSeenAt);
            return <span className="dim">{seen === null ? "—" : <RelativeTime at={seen} />}</span>;
          },
        },
      ]}
    />
  );
}
