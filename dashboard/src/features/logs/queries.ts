import { queryOptions } from "@tanstack/react-query";
import { api, unwrap } from "@/shared/api/client";
import { basePath } from "@/shared/base-path";
import { MARKER_PATTERN } from "./groups";
import type { FindMarkers, ReadPage, StreamTarget } from "./stream";

export const MATCH_LIMIT = 1000;

const path = ({ orgId, runId, jobId, stepIndex }: Omit<StreamTarget, "attempt">) => ({
  orgId,
  runId,
  jobId,
  stepIndex,
});

export const readLogPage: ReadPage = (target, range, signal) =>
  unwrap(
    api.GET("/api/v1/orgs/{orgId}/runs/{runId}/jobs/{jobId}/steps/{stepIndex}/logs", {
      params: { path: path(target), query: range },
      signal,
    }),
  );

const MARKER_LIMIT = 10_000;

export const findLogMarkers: FindMarkers = async (target, signal) => {
  const found = await unwrap(
    api.GET("/api/v1/orgs/{orgId}/runs/{runId}/jobs/{jobId}/steps/{stepIndex}/logs/search", {
      params: { path: path(target), query: { q: MARKER_PATTERN, regex: true, limit: MARKER_LIMIT } },
      signal,
    }),
  );
  return found.matches;
};

/** `lines` is part of the key: a log that grew is searched again. */
export const logSearchQuery = (target: StreamTarget, q: string, lines: number) =>
  queryOptions({
    queryKey: ["org", target.orgId, "log-search", target, q, lines],
    queryFn: ({ signal }) =>
      unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs/{runId}/jobs/{jobId}/steps/{stepIndex}/logs/search", {
          params: { path: path(target), query: { q, limit: MATCH_LIMIT } },
          signal,
        }),
      ),
    staleTime: "static",
    gcTime: 30_000,
  });

export function rawLogUrl({ orgId, runId, jobId, stepIndex }: Omit<StreamTarget, "attempt">): string {
  return `${basePath}/api/v1/orgs/${orgId}/runs/${runId}/jobs/${jobId}/steps/${stepIndex}/logs/raw`;
}
