import { useQuery } from "@tanstack/react-query";
import { ApiError } from "@/shared/api/client";
import { formatBytes } from "@/shared/format";
import { Fact, Facts } from "@/shared/ui/facts";
import { InboxIcon } from "@/shared/ui/icons";
import { JsonView } from "@/shared/ui/json-tree";
import { Empty, ErrorPanel, SkeletonRows } from "@/shared/ui/page";
import { payloadQuery } from "./queries";
import classes from "./run.module.css";

export function Payload({ orgId, runId }: { orgId: string; runId: string }) {
  const query = useQuery(payloadQuery(orgId, runId));
  if (query.isPending) return <SkeletonRows rows={6} height={28} />;
  if (!query.data) {
    const error = query.error;
    if (error instanceof ApiError && (error.orchestratorAway || error.status === 404)) {
      return (
        <Empty icon={InboxIcon} title="Payload not available">
          {error.orchestratorAway
            ? "The payload is kept by the orchestrator, which is currently offline."
            : error.message}
        </Empty>
      );
    }
    return <ErrorPanel error={error} retry={() => void query.refetch()} />;
  }
  const { event, headers, payload, sizeBytes } = query.data;
  return (
    <div className={classes.payload} data-testid="payload">
      <Facts title="Webhook">
        <Fact label="Event">
          <code>{event}</code>
        </Fact>
        <Fact label="Size">{formatBytes(sizeBytes)}</Fact>
        {Object.entries(headers).map(([name, value]) => (
          <Fact key={name} label={name}>
            <code>{value}</code>
          </Fact>
        ))}
      </Facts>
      <JsonView value={payload} fileName={`payload-${runId}.json`} />
    </div>
  );
}
