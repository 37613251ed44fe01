import { ApiError } from "@/shared/api/client";
import { ServerIcon } from "./icons";
import { Empty, ErrorPanel } from "./page";

/** For pages whose data only the orchestrator has. */
export function OrchestratorError({ error, retry }: { error: unknown; retry: () => void }) {
  if (error instanceof ApiError && error.orchestratorAway) {
    return (
      <Empty icon={ServerIcon} title="No orchestrator connected">
        This page is answered by the orchestrator, which is currently offline. It fills as soon as the
        orchestrator is back.
      </Empty>
    );
  }
  return <ErrorPanel error={error} retry={retry} />;
}
