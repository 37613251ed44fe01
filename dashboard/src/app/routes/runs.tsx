import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useCallback } from "react";
import { RunsPage } from "@/features/runs/page";
import type { RunSearch } from "@/features/runs/search";

export function RunsRoute() {
  const { orgId } = useParams({ from: "/shell/orgs/$orgId/runs" });
  const search = useSearch({ from: "/shell/orgs/$orgId/runs" });
  const navigate = useNavigate();
  const onSearch = useCallback(
    (next: RunSearch, options?: { replace: boolean }) =>
      void navigate({
        to: "/orgs/$orgId/runs",
        params: { orgId },
        search: next,
        replace: options?.replace ?? false,
      }),
    [navigate, orgId],
  );
  return <RunsPage key={orgId} orgId={orgId} search={search} onSearch={onSearch} />;
}
