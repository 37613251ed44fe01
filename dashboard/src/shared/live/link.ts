/** Whether an orchestrator of the org is connected: the Platform's word, kept fresh by events. */
import { type QueryClient, queryOptions, skipToken, useQuery } from "@tanstack/react-query";

export interface OrchestratorLink {
  connected: boolean;
  clusterName: string | null;
}

/** Filled by live events alone, so it never fetches; null until the first one. */
export const linkQuery = (orgId: string) =>
  queryOptions<OrchestratorLink | null>({
    queryKey: ["org", orgId, "link"],
    queryFn: skipToken,
    initialData: null,
    staleTime: "static",
    gcTime: Number.POSITIVE_INFINITY,
  });

export function useOrchestratorLink(orgId: string): OrchestratorLink | null {
  return useQuery(linkQuery(orgId)).data ?? null;
}

export function setLink(cache: QueryClient, orgId: string, link: OrchestratorLink): void {
  cache.setQueryData(linkQuery(orgId).queryKey, link);
}
