import { Button } from "@mantine/core";
import { infiniteQueryOptions, useInfiniteQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { api, unwrap } from "@/shared/api/client";
import type { DeliveryDecision, DeliveryView } from "@/shared/api/types";
import { plural, shortRef } from "@/shared/format";
import { OrchestratorError } from "@/shared/ui/away";
import { CopyButton } from "@/shared/ui/copy";
import { DataTable, SubLine } from "@/shared/ui/data-table";
import { Fact, Facts } from "@/shared/ui/facts";
import { InboxIcon } from "@/shared/ui/icons";
import { Empty, Page, SkeletonRows } from "@/shared/ui/page";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { RelativeTime } from "@/shared/ui/time";
import classes from "./deliveries.module.css";

const PAGE = 50;

export const deliveriesQuery = (orgId: string) =>
  infiniteQueryOptions({
    queryKey: ["org", orgId, "deliveries"],
    queryFn: ({ signal, pageParam }) =>
      unwrap(
        api.GET("/api/v1/orgs/{orgId}/deliveries", {
          params: { path: { orgId }, query: { limit: PAGE, before: pageParam } },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.nextBefore,
    refetchInterval: 15_000,
  });

export function DeliveriesPage({ orgId }: { orgId: string }) {
  const query = useInfiniteQuery(deliveriesQuery(orgId));
  const rows = query.data?.pages.flatMap((page) => page.deliveries) ?? [];
  return (
    <Page
      name="deliveries"
      title="Deliveries"
      subtitle="Every event that came in, and why it started a run or did not"
    >
      {query.isPending ? (
        <SkeletonRows rows={8} />
      ) : !query.data ? (
        <OrchestratorError error={query.error} retry={() => void query.refetch()} />
      ) : rows.length === 0 ? (
        <Empty icon={InboxIcon} title="No deliveries yet">
          Events appear here as soon as a source sends one.
        </Empty>
      ) : (
        <>
          <DataTable
            label="Deliveries"
            rows={rows}
            rowKey={(row) => row.deliveryId}
            columns={[
              {
                label: "Event",
                cell: (row) => (
                  <span>
                    {row.event}
                    {row.action ? <span className="dim"> · {row.action}</span> : null}
                    <SubLine>{row.sourceName}</SubLine>
                  </span>
                ),
              },
              {
                label: "Repository",
                cell: (row) => (
                  <>
                    {row.repoIdentifier ?? <span className="dim">—</span>}
                    {row.ref ? <SubLine>{shortRef(row.ref)}</SubLine> : null}
                  </>
                ),
              },
              { label: "Outcome", cell: (row) => <Outcome delivery={row} /> },
              { label: "Via", width: "90px", cell: (row) => <Chip>{row.via}</Chip> },
              {
                label: "Received",
                width: "150px",
                cell: (row) => (
                  <span className="dim">
                    <RelativeTime at={Date.parse(row.receivedAt)} />
                  </span>
                ),
              },
            ]}
            details={(row) => <Details orgId={orgId} delivery={row} />}
          />
          {query.hasNextPage ? (
            <div className={classes.more}>
              <Button
                variant="default"
                loading={query.isFetchingNextPage}
                onClick={() => void query.fetchNextPage()}
              >
                Older deliveries
              </Button>
            </div>
          ) : null}
        </>
      )}
    </Page>
  );
}

function Outcome({ delivery }: { delivery: DeliveryView }) {
  const { matchedCount, error, status } = delivery;
  const look = error
    ? ("failed" as const)
    : matchedCount > 0
      ? ("success" as const)
      : status === "processed"
        ? ("skipped" as const)
        : ("queued" as const);
  return (
    <span className={classes.outcome}>
      <StatusIcon status={look} size={14} />
      {error
        ? status.replaceAll("_", " ")
        : matchedCount > 0
          ? `${plural(matchedCount, "run")} started`
          : status === "processed"
            ? "nothing started"
            : status.replaceAll("_", " ")}
    </span>
  );
}

function Details({ orgId, delivery }: { orgId: string; delivery: DeliveryView }) {
  return (
    <div className={classes.details}>
      <Facts title="Delivery">
        <Fact label="Delivery ID">
          <Id value={delivery.deliveryId} />
        </Fact>
        <Fact label="Request ID">
          <Id value={delivery.requestId} />
        </Fact>
        <Fact label="Routing key">
          <code>{delivery.routingKey}</code>
        </Fact>
        <Fact label="Status">{delivery.status.replaceAll("_", " ")}</Fact>
        <Fact label="Error">{delivery.error}</Fact>
      </Facts>
      {delivery.decisions.length === 0 ? (
        <p className="dim">No workflow was considered for this delivery.</p>
      ) : (
        <ul className={classes.decisions}>
          {delivery.decisions.map((decision) => (
            <Decision key={decision.workflowName} orgId={orgId} decision={decision} />
          ))}
        </ul>
      )}
    </div>
  );
}

function Decision({ orgId, decision }: { orgId: string; decision: DeliveryDecision }) {
  return (
    <li className={classes.decision}>
      <div className={classes.decisionHead}>
        <StatusIcon status={decision.matched ? "success" : "skipped"} size={15} />
        <strong>{decision.workflowName}</strong>
        <span className="dim">{decision.reason}</span>
        {decision.runId ? (
          <Link
            className={classes.link}
            to="/orgs/$orgId/runs/$runId"
            params={{ orgId, runId: decision.runId }}
          >
            Open run
          </Link>
        ) : null}
      </div>
      {decision.checks.length > 0 ? (
        <table className={classes.checks}>
          <thead>
            <tr>
              <th scope="col">Check</th>
              <th scope="col">Expected</th>
              <th scope="col">Was</th>
              <th scope="col">Fits</th>
            </tr>
          </thead>
          <tbody>
            {decision.checks.map((check) => (
              <tr key={`${check.check}:${check.expected}:${check.actual}`}>
                <td>{check.check}</td>
                <td>
                  <code>{check.expected}</code>
                </td>
                <td>
                  <code>{check.actual}</code>
                </td>
                <td>
                  <StatusIcon status={check.matched ? "success" : "failed"} size={13} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : null}
    </li>
  );
}

function Id({ value }: { value: string }) {
  return (
    <span className={classes.id}>
      <code className="truncate">{value}</code>
      <CopyButton text={value} label="Copy id" />
    </span>
  );
}
