import { TextInput, Tooltip } from "@mantine/core";
import { queryOptions, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, unwrap } from "@/shared/api/client";
import type { RegistrationView } from "@/shared/api/types";
import { at, shortSha } from "@/shared/format";
import { triggerLabel } from "@/shared/status";
import { OrchestratorError } from "@/shared/ui/away";
import { DataTable, SubLine } from "@/shared/ui/data-table";
import { SearchIcon, WarningIcon, WorkflowIcon } from "@/shared/ui/icons";
import { JsonTree } from "@/shared/ui/json-tree";
import { Empty, Page, SkeletonRows } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import { RelativeTime, UntilTime } from "@/shared/ui/time";
import { triggerIcon } from "@/shared/ui/trigger";
import { RunNow } from "./run-now";

export const registrationsQuery = (orgId: string) =>
  queryOptions({
    queryKey: ["org", orgId, "registrations"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/orgs/{orgId}/registrations", { params: { path: { orgId } }, signal })),
  });

export function WorkflowsPage({ orgId }: { orgId: string }) {
  const query = useQuery(registrationsQuery(orgId));
  const [text, setText] = useState("");
  const needle = text.trim().toLowerCase();
  const all = query.data?.registrations ?? [];
  const shown = all.filter((each) =>
    `${each.workflowName} ${each.repoIdentifier} ${each.triggerTypes.join(" ")}`
      .toLowerCase()
      .includes(needle),
  );
  const updated = at(query.data?.registryUpdatedAt);
  return (
    <Page
      name="workflows"
      title="Workflows"
      subtitle={
        query.data ? (
          <>
            Registry version {query.data.registryVersion}
            {updated !== null ? (
              <>
                {" "}
                · updated <RelativeTime at={updated} />
              </>
            ) : null}
          </>
        ) : (
          "What listens for events"
        )
      }
      actions={
        <TextInput
          size="xs"
          data-search="page"
          placeholder="Filter workflows"
          aria-label="Filter workflows"
          leftSection={<SearchIcon size={14} />}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
        />
      }
    >
      {query.isPending ? (
        <SkeletonRows rows={6} />
      ) : !query.data ? (
        <OrchestratorError error={query.error} retry={() => void query.refetch()} />
      ) : all.length === 0 ? (
        <Empty icon={WorkflowIcon} title="No registered workflows">
          A workflow registers itself when a push to its default branch carries a lock file. Write one with{" "}
          <code>kici init</code>, then <code>kici compile</code>, commit and push.
        </Empty>
      ) : shown.length === 0 ? (
        <Empty icon={SearchIcon} title="No matching workflows">
          Nothing fits “{text}”.
        </Empty>
      ) : (
        <DataTable
          label="Workflows"
          rows={shown}
          rowKey={(row) => row.id}
          columns={[
            {
              label: "Workflow",
              cell: (row) => (
                <span>
                  {row.workflowName}{" "}
                  {row.disabled ? (
                    <Tooltip label="Nothing starts it until an operator enables it again">
                      <span>
                        <Chip>disabled</Chip>
                      </span>
                    </Tooltip>
                  ) : null}
                  {row.stale ? (
                    <Tooltip label="Nothing has triggered it for 30 days">
                      <span>
                        <Chip tone="queued">Stale</Chip>
                      </span>
                    </Tooltip>
                  ) : null}
                  <SubLine>
                    <code>{row.sourceFile}</code>
                  </SubLine>
                </span>
              ),
            },
            { label: "Repository", cell: (row) => row.repoIdentifier },
            {
              label: "Triggers",
              cell: (row) => (
                <span style={{ display: "inline-flex", gap: 4, flexWrap: "wrap" }}>
                  {row.triggerTypes.map((type) => (
                    <TriggerChip key={type} type={type} />
                  ))}
                </span>
              ),
            },
            {
              label: "Source",
              minor: true,
              cell: (row) => <span title={row.source.routingKey}>{row.source.name}</span>,
            },
            {
              label: "Commit",
              minor: true,
              cell: (row) => <code className="dim">{shortSha(row.commitSha)}</code>,
            },
            {
              label: "Next",
              width: "130px",
              cell: (row) => <NextFire registration={row} />,
            },
            {
              label: "Last triggered",
              width: "150px",
              cell: (row) => {
                const last = at(row.lastTriggeredAt);
                return <span className="dim">{last === null ? "never" : <RelativeTime at={last} />}</span>;
              },
            },
            {
              label: "Actions",
              width: "110px",
              cell: (row) => <RunNow orgId={orgId} registration={row} />,
            },
          ]}
          details={(row) => (
            <>
              <p style={{ marginTop: 0 }}>
                <Link
                  to="/orgs/$orgId/runs"
                  params={{ orgId }}
                  search={{ workflow: [row.workflowName] }}
                  style={{ color: "var(--kici-accent-text)" }}
                >
                  Runs of this workflow
                </Link>
              </p>
              {row.problem ? (
                <p className="dim" style={{ color: "var(--tone-failed)" }}>
                  {row.problem}
                </p>
              ) : null}
              <JsonTree value={row.triggers} />
            </>
          )}
        />
      )}
    </Page>
  );
}

function TriggerChip({ type }: { type: string }) {
  const Icon = triggerIcon(type);
  return (
    <Chip>
      <Icon size={11} />
      {triggerLabel(type)}
    </Chip>
  );
}

/** When a schedule fires next; nothing for workflows that wait for events. */
function NextFire({ registration: { nextFireAt, problem } }: { registration: RegistrationView }) {
  const next = at(nextFireAt);
  if (problem) {
    return (
      <Tooltip label={problem}>
        <span style={{ color: "var(--tone-failed)", display: "inline-flex", gap: 5, alignItems: "center" }}>
          <WarningIcon size={13} /> never
        </span>
      </Tooltip>
    );
  }
  return next === null ? (
    <span className="dim" data-none>
      —
    </span>
  ) : (
    <span className="dim">
      <UntilTime at={next} />
    </span>
  );
}
