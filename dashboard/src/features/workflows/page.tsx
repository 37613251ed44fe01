import { TextInput } from "@mantine/core";
import { queryOptions, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, unwrap } from "@/shared/api/client";
import { at, shortSha } from "@/shared/format";
import { triggerLabel } from "@/shared/status";
import { OrchestratorError } from "@/shared/ui/away";
import { DataTable, SubLine } from "@/shared/ui/data-table";
import { SearchIcon, WorkflowIcon } from "@/shared/ui/icons";
import { JsonTree } from "@/shared/ui/json-tree";
import { Empty, Page, SkeletonRows } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import { RelativeTime } from "@/shared/ui/time";

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
                  {row.workflowName} {row.disabled ? <Chip>disabled</Chip> : null}
                  {row.stale ? <Chip tone="queued">Stale</Chip> : null}
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
                    <Chip key={type}>{triggerLabel(type)}</Chip>
                  ))}
                </span>
              ),
            },
            {
              label: "Source",
              cell: (row) => <span title={row.source.routingKey}>{row.source.name}</span>,
            },
            { label: "Commit", cell: (row) => <code className="dim">{shortSha(row.commitSha)}</code> },
            {
              label: "Last triggered",
              width: "150px",
              cell: (row) => {
                const last = at(row.lastTriggeredAt);
                return <span className="dim">{last === null ? "never" : <RelativeTime at={last} />}</span>;
              },
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
              <JsonTree value={row.triggers} />
            </>
          )}
        />
      )}
    </Page>
  );
}
