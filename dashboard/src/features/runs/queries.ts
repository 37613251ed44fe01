import { keepPreviousData, queryOptions, skipToken } from "@tanstack/react-query";
import { api, unwrap } from "@/shared/api/client";
import { eventsSince, markEvents } from "@/shared/live/recent";
import type { RunProjection } from "@/ws.gen";
import { patchGroups, patchList } from "./live";
import type { RunSearch } from "./search";

export const PAGE_SIZE = 20;

function listQuery({ group: _group, ...search }: RunSearch) {
  return { ...search, page: search.page ?? 1, pageSize: PAGE_SIZE };
}

export const runsKey = (orgId: string) => ["org", orgId, "runs"] as const;
export const runListKey = (orgId: string) => [...runsKey(orgId), "list"] as const;
export const runGroupsKey = (orgId: string) => [...runsKey(orgId), "groups"] as const;

export const runListQuery = (orgId: string, search: RunSearch) =>
  queryOptions({
    queryKey: [...runListKey(orgId), listQuery(search)],
    queryFn: async ({ signal }) => {
      const mark = markEvents();
      const list = await unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs", {
          params: { path: { orgId }, query: listQuery(search) },
          signal,
        }),
      );
      return eventsSince(mark, orgId).reduce(
        (patched, event) => (event.run ? patchList(patched, event.run) : patched),
        list,
      );
    },
    placeholderData: keepPreviousData,
  });

export const runGroupsQuery = (orgId: string, search: RunSearch) =>
  queryOptions({
    queryKey: [...runGroupsKey(orgId), listQuery(search)],
    queryFn: async ({ signal }) => {
      const mark = markEvents();
      const groups = await unwrap(
        api.GET("/api/v1/orgs/{orgId}/runs/by-commit", {
          params: { path: { orgId }, query: listQuery(search) },
          signal,
        }),
      );
      return eventsSince(mark, orgId).reduce(
        (patched, event) => (event.run ? patchGroups(patched, event.run) : patched),
        groups,
      );
    },
    placeholderData: keepPreviousData,
  });

export const runFiltersQuery = (orgId: string) =>
  queryOptions({
    queryKey: [...runsKey(orgId), "filters"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/orgs/{orgId}/runs/filters", { params: { path: { orgId } }, signal })),
    staleTime: 30_000,
  });

/** Runs that began since the page was opened, newest first. Live events alone fill it. */
export const arrivalsQuery = (orgId: string) =>
  queryOptions<RunProjection[]>({
    queryKey: [...runsKey(orgId), "arrivals"],
    queryFn: skipToken,
    initialData: [],
    staleTime: "static",
  });
