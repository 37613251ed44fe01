/** Puts the run and its logs together. */
import { useLocation, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useCallback } from "react";
import { LogViewer } from "@/features/logs/viewer";
import { RunPage, type RunTab } from "@/features/run/page";
import type { Selection } from "@/features/run/selection";

export function RunRoute() {
  const params = useParams({ strict: false });
  const { tab } = useSearch({ from: "/shell/orgs/$orgId/runs/$runId" });
  const hash = useLocation({ select: (location) => location.hash });
  const navigate = useNavigate();
  const orgId = params.orgId ?? "";
  const runId = params.runId ?? "";
  const selection: Selection | null = params.jobId
    ? { jobId: params.jobId, stepIndex: params.stepIndex === undefined ? null : Number(params.stepIndex) }
    : null;

  const onSelect = useCallback(
    (next: Selection | null, options?: { replace: boolean }) => {
      const replace = options?.replace ?? false;
      const search = { tab: undefined };
      if (!next) {
        void navigate({ to: "/orgs/$orgId/runs/$runId", params: { orgId, runId }, search, replace });
      } else if (next.stepIndex === null) {
        void navigate({
          to: "/orgs/$orgId/runs/$runId/jobs/$jobId",
          params: { orgId, runId, jobId: next.jobId },
          search,
          replace,
        });
      } else {
        void navigate({
          to: "/orgs/$orgId/runs/$runId/jobs/$jobId/steps/$stepIndex",
          params: { orgId, runId, jobId: next.jobId, stepIndex: String(next.stepIndex) },
          search,
          replace,
        });
      }
    },
    [navigate, orgId, runId],
  );
  const onTab = (next: RunTab) =>
    void navigate({
      to: ".",
      search: { tab: next === "logs" ? undefined : next },
      hash: "",
      replace: true,
    });
  const onHash = useCallback(
    (next: string) => void navigate({ to: ".", search: true, hash: next, replace: true }),
    [navigate],
  );

  return (
    <RunPage
      key={runId}
      orgId={orgId}
      runId={runId}
      selection={selection}
      onSelect={onSelect}
      tab={tab ?? "logs"}
      onTab={onTab}
      renderLogs={(logs) => <LogViewer orgId={orgId} runId={runId} hash={hash} onHash={onHash} {...logs} />}
    />
  );
}
