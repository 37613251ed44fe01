import { queryOptions } from "@tanstack/react-query";
import { api, unwrap } from "@/shared/api/client";
import { eventsSince, markEvents } from "@/shared/live/recent";
import { patchDetail } from "./live";

export const runDetailKey = (orgId: string, runId: string) =>
  ["org", orgId, "run", runId, "detail"] as const;

export const runDetailQuery = (orgId: string, runId: string) =>
  queryOptions({
    queryKey: runDetailKey(orgId, runId),
    queryFn: async ({ signal }) => {
      const mark = markEvents();
      const detail = await unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs/{runId}/detail", { params: { path: { orgId, runId } }, signal }),
      );
      return eventsSince(mark, orgId).reduce(patchDetail, detail);
    },
  });

export const payloadQuery = (orgId: string, runId: string) =>
  queryOptions({
    queryKey: ["org", orgId, "run", runId, "payload"],
    queryFn: ({ signal }) =>
      unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs/{runId}/payload", {
          params: { path: { orgId, runId } },
          signal,
        }),
      ),
    staleTime: "static", // what was received never changes
  });

export function cancelRun(orgId: string, runId: string, force: boolean) {
  return unwrap(
    api.POST("/api/v1/orgs/{orgId}/runs/{runId}/cancel", {
      params: { path: { orgId, runId } },
      body: { force },
    }),
  );
}
