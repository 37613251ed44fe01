import { Button, Pagination } from "@mantine/core";
import { useMediaQuery } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { formatCount, plural } from "@/shared/format";
import { useOrchestratorLink } from "@/shared/live/link";
import { recall, remember, useStringSet } from "@/shared/preferences";
import { RunsIcon, SearchIcon, ServerIcon } from "@/shared/ui/icons";
import { LinkButton } from "@/shared/ui/link-button";
import { Empty, ErrorPanel, Page, SkeletonRows } from "@/shared/ui/page";
import type { RunProjection } from "@/ws.gen";
import { CommitGroups } from "./groups";
import { arrivalsQuery, PAGE_SIZE, runGroupsQuery, runListQuery } from "./queries";
import classes from "./runs.module.css";
import { hasFilters, isDefaultSort, matches, type RunSearch } from "./search";
import { RunCards, RunTable } from "./table";
import { RunToolbar } from "./toolbar";

interface RunsPageProps {
  orgId: string;
  search: RunSearch;
  /** Rewrites the URL. */
  onSearch: (search: RunSearch, options?: { replace: boolean }) => void;
}

export function RunsPage({ orgId, search, onSearch }: RunsPageProps) {
  const cards = useMediaQuery("(max-width: 767px)", false, { getInitialValueInEffect: false });
  const [hidden, setHidden] = useStringSet(`kici:${orgId}:runs:columns`);
  useRememberedGrouping(orgId, search, onSearch);
  const change = (part: Partial<RunSearch>) => onSearch({ ...search, ...part, page: undefined });
  const body = { orgId, search, onSearch, hidden, cards };
  return (
    <Page name="runs" title="Runs">
      <RunToolbar
        orgId={orgId}
        search={search}
        onChange={change}
        onClear={() => onSearch({ sort: search.sort, dir: search.dir, group: search.group })}
        hidden={hidden}
        onHidden={setHidden}
        cards={cards}
      />
      {search.group === "commit" ? <Grouped {...body} /> : <Flat {...body} />}
    </Page>
  );
}

interface BodyProps extends RunsPageProps {
  hidden: ReadonlySet<string>;
  cards: boolean;
}

function Flat({ orgId, search, onSearch, hidden, cards }: BodyProps) {
  const query = useQuery(runListQuery(orgId, search));
  const list = query.data;
  const live = useArrivals(orgId, search, list?.runs);
  useLastPage(search, list, onSearch);
  if (query.isPending) return <SkeletonRows rows={12} />;
  if (!list) return <ErrorPanel error={query.error} retry={() => void query.refetch()} />;
  if (list.runs.length + live.inserted.length === 0) return <NoRuns orgId={orgId} search={search} />;
  const runs = live.inserted.length > 0 ? [...live.inserted, ...list.runs].slice(0, PAGE_SIZE) : list.runs;
  const label = "Runs";
  return (
    <>
      <NewRunsPill
        count={live.waiting}
        onShow={() => {
          live.release();
          onSearch({ ...search, sort: undefined, dir: undefined, page: undefined });
          void query.refetch();
        }}
      />
      <div
        className={classes.list}
        data-stale={query.isPlaceholderData || undefined}
        onPointerEnter={live.hold}
        onPointerLeave={live.release}
      >
        {cards ? (
          <RunCards orgId={orgId} runs={runs} label={label} />
        ) : (
          <RunTable
            orgId={orgId}
            runs={runs}
            hidden={hidden}
            search={search}
            onSort={(sort, dir) => onSearch({ ...search, sort, dir, page: undefined })}
            label={label}
          />
        )}
      </div>
      <Pager
        page={list.page}
        shown={runs.length}
        total={list.total + live.inserted.length}
        capped={list.totalIsCapped}
        noun="run"
        onPage={(page) => onSearch({ ...search, page: page === 1 ? undefined : page })}
      />
    </>
  );
}

function Grouped({ orgId, search, onSearch, hidden, cards }: BodyProps) {
  const query = useQuery({ ...runGroupsQuery(orgId, search), placeholderData: keepPreviousData });
  const list = query.data;
  const shown = list?.groups.flatMap((group) => group.runs);
  const live = useArrivals(orgId, search, shown);
  const due = live.inserted.length;
  const refetch = query.refetch;
  useEffect(() => {
    if (due > 0) void refetch();
  }, [due, refetch]);
  useLastPage(search, list, onSearch);
  if (query.isPending) return <SkeletonRows rows={12} />;
  if (!list) return <ErrorPanel error={query.error} retry={() => void query.refetch()} />;
  if (list.groups.length === 0) return <NoRuns orgId={orgId} search={search} />;
  return (
    <>
      <NewRunsPill
        count={live.waiting}
        onShow={() => {
          live.release();
          onSearch({ ...search, page: undefined });
          void query.refetch();
        }}
      />
      <div
        data-stale={query.isPlaceholderData || undefined}
        onPointerEnter={live.hold}
        onPointerLeave={live.release}
      >
        <CommitGroups orgId={orgId} groups={list.groups} hidden={hidden} search={search} cards={cards} />
      </div>
      <Pager
        page={list.page}
        shown={list.groups.length}
        total={list.total}
        capped={false}
        noun="commit"
        onPage={(page) => onSearch({ ...search, page: page === 1 ? undefined : page })}
      />
    </>
  );
}

/**
 * New runs: shown at once on the first page in the default order, unless the pointer is over the list
 * (a row must never move away under it); else only counted.
 */
function useArrivals(orgId: string, search: RunSearch, listed: readonly RunProjection[] | undefined) {
  const arrivals = useQuery(arrivalsQuery(orgId)).data;
  const [held, setHeld] = useState<ReadonlySet<string> | null>(null);
  const known = new Set(listed?.map((run) => run.runId));
  const newest = Math.max(0, ...(listed ?? []).map((run) => Date.parse(run.createdAt)));
  const candidates = (listed ? (arrivals ?? []) : []).filter(
    (run) =>
      !known.has(run.runId) &&
      matches(search, run) &&
      // An arrival older than what page 1 shows has simply moved on to a later page.
      Date.parse(run.createdAt) >= newest,
  );
  const insertable = (search.page ?? 1) === 1 && isDefaultSort(search) && !search.q;
  const inserted = insertable ? candidates.filter((run) => !held || held.has(run.runId)) : [];
  return {
    inserted,
    waiting: candidates.length - inserted.length,
    hold: () => setHeld(new Set(inserted.map((run) => run.runId))),
    release: () => setHeld(null),
  };
}

/** The switch is remembered per org; a URL that says nothing gets what was chosen last. */
function useRememberedGrouping(orgId: string, search: RunSearch, onSearch: RunsPageProps["onSearch"]) {
  const key = `kici:${orgId}:runs:group`;
  const first = useRef(true);
  useEffect(() => {
    if (first.current) {
      first.current = false;
      const wanted = recall(key, (text) => text === "true", false);
      if (wanted && !search.group && Object.values(search).every((value) => value === undefined)) {
        onSearch({ ...search, group: "commit" }, { replace: true });
        return;
      }
    }
    remember(key, String(search.group === "commit"));
  }, [key, search, onSearch]);
}

function useLastPage(
  search: RunSearch,
  list: { page: number; total: number; pageSize: number } | undefined,
  onSearch: RunsPageProps["onSearch"],
) {
  const last = list ? Math.max(1, Math.ceil(list.total / list.pageSize)) : null;
  const beyond = last !== null && list?.page === (search.page ?? 1) && list.page > last;
  useEffect(() => {
    if (beyond && last !== null) onSearch({ ...search, page: last }, { replace: true });
  }, [beyond, last, search, onSearch]);
}

function NewRunsPill({ count, onShow }: { count: number; onShow: () => void }) {
  return (
    <div className={classes.pillSlot} aria-live="polite">
      {count > 0 ? (
        <Button radius="xl" className={classes.pill} onClick={onShow}>
          {plural(count, "new run")}
        </Button>
      ) : null}
    </div>
  );
}

interface PagerProps {
  page: number;
  shown: number;
  total: number;
  capped: boolean;
  noun: string;
  onPage: (page: number) => void;
}

function Pager({ page, shown, total, capped, noun, onPage }: PagerProps) {
  const first = (page - 1) * PAGE_SIZE + 1;
  const pages = Math.max(1, Math.ceil(total / PAGE_SIZE));
  return (
    <footer className={classes.pager}>
      <span className="dim tabular" data-testid="range">
        Showing {formatCount(first)}-{formatCount(first + shown - 1)} of {formatCount(total)}
        {capped ? "+" : ""} {noun}s
      </span>
      {pages > 1 ? (
        <Pagination
          size="sm"
          value={page}
          total={pages}
          onChange={onPage}
          siblings={1}
          getItemProps={(number) => ({ "aria-label": `Page ${number}` })}
          getControlProps={(control) => ({ "aria-label": `${control} page` })}
        />
      ) : null}
    </footer>
  );
}

function NoRuns({ orgId, search }: { orgId: string; search: RunSearch }) {
  const link = useOrchestratorLink(orgId);
  if (hasFilters(search)) {
    return (
      <Empty
        icon={SearchIcon}
        title="No matching runs"
        action={
          <LinkButton variant="default" to="/orgs/$orgId/runs" params={{ orgId }} mt={8}>
            Clear filters
          </LinkButton>
        }
      >
        Nothing fits these filters. Remove some of them to see more.
      </Empty>
    );
  }
  if (link && !link.connected) {
    return (
      <Empty
        icon={ServerIcon}
        title="No orchestrator connected"
        action={
          <LinkButton
            variant="default"
            to="/orgs/$orgId/settings/$tab"
            params={{ orgId, tab: "orchestrators" }}
            mt={8}
          >
            Open settings
          </LinkButton>
        }
      >
        Runs come from an orchestrator. Check that it is started, and that its platform address and key are
        right.
      </Empty>
    );
  }
  return (
    <Empty icon={RunsIcon} title="No runs yet">
      Push to a repository that has a workflow in <code>.kici/workflows</code> and its run appears here at
      once.
    </Empty>
  );
}
