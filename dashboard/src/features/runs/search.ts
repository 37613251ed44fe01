/** What the run list's URL says. The URL is the only place where filters, sorting and page live. */
import { oneOf, positive, text, texts } from "@/shared/search-params";
import type { RunProjection } from "@/ws.gen";

export const SORT_KEYS = [
  "status",
  "triggerEvent",
  "workflowName",
  "ref",
  "sha",
  "durationMs",
  "createdAt",
] as const;
export type SortKey = (typeof SORT_KEYS)[number];

export const FACETS = ["status", "workflow", "branch", "repository", "triggerType", "source"] as const;
export type Facet = (typeof FACETS)[number];

export interface RunSearch extends Partial<Record<Facet, string[]>> {
  sha?: string | undefined;
  since?: string | undefined;
  until?: string | undefined;
  q?: string | undefined;
  sort?: SortKey | undefined;
  dir?: "asc" | "desc" | undefined;
  page?: number | undefined;
  group?: "commit" | undefined;
}

export function parseRunSearch(raw: Record<string, unknown>): RunSearch {
  const search: RunSearch = {
    sha: text(raw.sha),
    since: text(raw.since),
    until: text(raw.until),
    q: text(raw.q),
    sort: oneOf(raw.sort, SORT_KEYS),
    dir: oneOf(raw.dir, ["asc", "desc"] as const),
    page: positive(raw.page),
    group: oneOf(raw.group, ["commit"] as const),
  };
  for (const facet of FACETS) search[facet] = texts(raw[facet]);
  return search;
}

export function hasFilters(search: RunSearch): boolean {
  return (
    FACETS.some((facet) => search[facet]) || Boolean(search.sha || search.since || search.until || search.q)
  );
}

export function isDefaultSort(search: RunSearch): boolean {
  return (search.sort ?? "createdAt") === "createdAt" && (search.dir ?? "desc") === "desc";
}

/** Whether a run that just appeared belongs into a list with these filters; free text is the server's. */
export function matches(search: RunSearch, run: RunProjection): boolean {
  const has = (wanted: string[] | undefined, value: string | null) =>
    !wanted || (value !== null && wanted.includes(value));
  return (
    (has(search.status, run.displayStatus) || has(search.status, run.status)) &&
    has(search.workflow, run.workflowName) &&
    has(search.branch, run.branch) &&
    has(search.repository, run.repoIdentifier) &&
    has(search.triggerType, run.triggerEvent) &&
    has(search.source, run.source.routingKey) &&
    (!search.sha || run.sha.startsWith(search.sha)) &&
    (!search.since || Date.parse(run.createdAt) >= Date.parse(search.since)) &&
    (!search.until || Date.parse(run.createdAt) < Date.parse(search.until))
  );
}
