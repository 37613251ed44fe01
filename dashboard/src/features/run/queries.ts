import { queryOptions } from "@tanstack/react-query";
import { api, unwrap } from "@/shared/api/client";
import type { RunProjection } from "@/shared/api/types";
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

export type RerunMode = "all" | "failed";

export function rerunRun(orgId: string, runId: string, mode: RerunMode) {
  return unwrap(
    api.POST("/api/v1/orgs/{orgId}/runs/{runId}/rerun", {
      params: { path: { orgId, runId } },
      body: { mode },
    }),
  );
}

/** Runs that were started again from this one, newest first. They are of the same commit. */
export const rerunsQuery = (orgId: string, run: Pick<RunProjection, "runId" | "sha" | "workflowName">) =>
  queryOptions({
    queryKey: ["org", orgId, "run", run.runId, "reruns"],
    queryFn: async ({ signal }) => {
      const found = await unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs", {
          params: {
            path: { orgId },
            query: {
              workflow: [run.workflowName],
              triggerType: ["rerun"],
              ...(run.sha ? { sha: run.sha } : {}),
              pageSize: 100,
            },
          },
          signal,
        }),
      );
      return found.runs.filter((each) => each.parentRunId === run.runId);
    },
    staleTime: 10_000,
  });
