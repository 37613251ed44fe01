import { Button, Drawer, Tabs } from "@mantine/core";
import { useHotkeys, useMediaQuery } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { lazy, type ReactNode, Suspense, useEffect, useMemo, useRef, useState } from "react";
import { Group, Panel, Separator } from "react-resizable-panels";
import { ApiError } from "@/shared/api/client";
import type { JobView, RunDetailView } from "@/shared/api/types";
import { plural } from "@/shared/format";
import { useOrchestratorLink } from "@/shared/live/link";
import { recall, remember } from "@/shared/preferences";
import { isActive, isTerminal, statusLook } from "@/shared/status";
import { InfoPanelIcon, SearchIcon, ServerIcon } from "@/shared/ui/icons";
import { AfterDelay, Empty, ErrorPanel, SkeletonRows, useTitle } from "@/shared/ui/page";
import { FailureBanner, RunHeader } from "./header";
import { byPosition } from "./live";
import { Metadata } from "./metadata";
import { Payload } from "./payload";
import { runDetailQuery } from "./queries";
import classes from "./run.module.css";
import { initialSelection, type Selection } from "./selection";
import { inOrder } from "./step-kinds";
import { Summary } from "./summary";
import { Timeline } from "./timeline";
import { JobTree } from "./tree";

const Graph = lazy(async () => ({ default: (await import("./graph")).Graph }));

export const TABS = ["logs", "payload", "timeline", "graph", "summary", "metadata"] as const;
export type RunTab = (typeof TABS)[number];

export interface LogsProps {
  job: JobView;
  stepIndex: number | null;
  orchestratorAway: boolean;
}

interface RunPageProps {
  orgId: string;
  runId: string;
  /** What the URL says; null when it says nothing. */
  selection: Selection | null;
  onSelect: (selection: Selection | null, options?: { replace: boolean }) => void;
  tab: RunTab;
  onTab: (tab: RunTab) => void;
  /** The log viewer is another feature; the app puts the two together. */
  renderLogs: (props: LogsProps) => ReactNode;
}

export function RunPage(props: RunPageProps) {
  const { orgId, runId } = props;
  const query = useQuery(runDetailQuery(orgId, runId));
  const detail = query.data;
  const title = detail
    ? `${statusLook(detail.run.displayStatus).label}: ${detail.run.workflowName} #${runId.slice(-8)}`
    : `Run #${runId.slice(-8)}`;
  useTitle(title);
  return (
    <div className={classes.page} data-testid="page-run">
      {detail ? (
        <Detail {...props} detail={detail} />
      ) : query.isPending ? (
        <AfterDelay>
          <SkeletonRows rows={8} />
        </AfterDelay>
      ) : query.error instanceof ApiError && query.error.status === 404 ? (
        <Empty icon={SearchIcon} title="Run not found">
          There is no run with this id in this organization.
        </Empty>
      ) : (
        <ErrorPanel error={query.error} retry={() => void query.refetch()} />
      )}
    </div>
  );
}

/** The URL's selection, or the one this page began with: it stays while statuses change. */
function useSelection(detail: RunDetailView, fromUrl: Selection | null): Selection | null {
  const begun = useRef<Selection | null>(null);
  if (begun.current && !detail.jobs.some((job) => job.jobId === begun.current?.jobId)) begun.current = null;
  begun.current ??= initialSelection(detail.jobs);
  return fromUrl ?? begun.current;
}

const TAB_LABELS: Record<RunTab, string> = {
  logs: "Logs",
  payload: "Payload",
  timeline: "Timeline",
  graph: "Graph",
  summary: "Summary",
  metadata: "Metadata",
};

function Detail({
  orgId,
  runId,
  selection: fromUrl,
  onSelect,
  tab,
  onTab,
  renderLogs,
  detail,
}: RunPageProps & { detail: RunDetailView }) {
  const { run } = detail;
  const wide = useMediaQuery("(min-width: 1200px)", true, { getInitialValueInEffect: false });
  const mobile = useMediaQuery("(max-width: 767px)", false, { getInitialValueInEffect: false });
  const [drawer, setDrawer] = useState(false);
  const link = useOrchestratorLink(orgId);
  const away = detail.source === "projection" || link?.connected === false;
  const jobs = useMemo(
    () => detail.jobs.toSorted(byPosition).map((job) => ({ ...job, steps: inOrder(job.steps) })),
    [detail.jobs],
  );
  const selection = useSelection(detail, fromUrl);
  const job = jobs.find((each) => each.jobId === selection?.jobId) ?? null;
  const step =
    selection?.stepIndex === null
      ? null
      : (job?.steps.find((each) => each.stepIndex === selection?.stepIndex) ?? null);

  const tabs = TABS.filter((each) => (each === "payload" ? run.hasPayload : each !== "metadata" || mobile));
  const current = tabs.includes(tab) ? tab : "logs";
  const streaming = Boolean(job && isActive(step?.status ?? job.status));

  useFailedStepKeys(jobs, selection, onSelect);
  useCompletionNotice(run.displayStatus);

  const tree = (
    <JobTree
      key={runId}
      jobs={jobs}
      selection={selection}
      onSelect={onSelect}
      onReset={() => {
        const first = jobs[0];
        if (first) onSelect({ jobId: first.jobId, stepIndex: null });
      }}
    />
  );
  const metadata = <Metadata run={run} job={job} step={step} />;
  const content = (
    <Tabs
      value={current}
      onChange={(next) => onTab(next as RunTab)}
      keepMounted={false}
      className={classes.tabs}
      classNames={{ list: classes.tabList, tab: classes.tab, panel: classes.tabPanel }}
    >
      <Tabs.List>
        {tabs.map((each) => (
          <Tabs.Tab key={each} value={each}>
            {TAB_LABELS[each]}
            {each === "logs" && streaming ? (
              <span className={classes.streaming} data-testid="streaming">
                Streaming
              </span>
            ) : null}
          </Tabs.Tab>
        ))}
      </Tabs.List>
      <Tabs.Panel value="logs">
        {job ? (
          renderLogs({ job, stepIndex: selection?.stepIndex ?? null, orchestratorAway: away })
        ) : (
          <Empty icon={ServerIcon} title="Waiting for jobs">
            The log appears as soon as the first job exists.
          </Empty>
        )}
      </Tabs.Panel>
      <Tabs.Panel value="payload">
        <Payload orgId={orgId} runId={runId} />
      </Tabs.Panel>
      <Tabs.Panel value="timeline">
        <Timeline detail={{ ...detail, jobs }} selection={selection} onSelect={onSelect} />
      </Tabs.Panel>
      <Tabs.Panel value="graph">
        <Suspense fallback={<SkeletonRows rows={4} />}>
          <Graph jobs={jobs} selection={selection} onSelect={onSelect} />
        </Suspense>
      </Tabs.Panel>
      <Tabs.Panel value="summary">
        <Summary detail={{ ...detail, jobs }} job={job} onSelect={onSelect} />
      </Tabs.Panel>
      <Tabs.Panel value="metadata">{metadata}</Tabs.Panel>
    </Tabs>
  );

  return (
    <>
      <RunHeader
        orgId={orgId}
        run={run}
        extra={
          !wide && !mobile ? (
            <Button
              variant="default"
              leftSection={<InfoPanelIcon size={14} />}
              onClick={() => setDrawer(true)}
            >
              Show metadata
            </Button>
          ) : null
        }
      />
      <FailureBanner run={run} />
      {away ? (
        <p className={classes.awayNote} role="status" data-testid="away-note">
          <ServerIcon size={14} />
          The orchestrator is offline: this is what was known last, and logs cannot be read.
        </p>
      ) : null}
      {mobile ? (
        <div className={classes.stacked}>
          <section className={classes.stackedTree} aria-label="Jobs">
            {tree}
          </section>
          <div className={classes.stackedContent}>{content}</div>
        </div>
      ) : (
        <Panels
          key={wide ? "three" : "two"}
          wide={wide}
          tree={tree}
          content={content}
          metadata={metadata}
          jobCount={jobs.length}
        />
      )}
      <Drawer
        opened={drawer && !wide}
        onClose={() => setDrawer(false)}
        position="right"
        size={380}
        title="Metadata"
        padding={0}
        classNames={{ header: classes.drawerHeader }}
      >
        {metadata}
      </Drawer>
    </>
  );
}

const PANELS_KEY = "kici:run:panels";
type Sizes = Record<string, number>;

function storedSizes(): Record<string, Sizes> {
  return recall(PANELS_KEY, (text) => JSON.parse(text) as Record<string, Sizes>, {});
}

interface PanelsProps {
  wide: boolean;
  tree: ReactNode;
  content: ReactNode;
  metadata: ReactNode;
  jobCount: number;
}

/** Room for names where there is room, and no more than they need on a wide screen. */
function sideWidth(): number {
  return Math.round(Math.min(340, Math.max(240, window.innerWidth * 0.195)));
}

/** Two or three panels whose sizes are remembered apart; a double click on a divider resets them. */
function Panels({ wide, tree, content, metadata, jobCount }: PanelsProps) {
  const name = wide ? "three" : "two";
  const ids = wide ? ["run-tree", "run-content", "run-metadata"] : ["run-tree", "run-content"];
  const stored = storedSizes()[name];
  const valid = stored && ids.every((id) => typeof stored[id] === "number") ? stored : undefined;
  return (
    <Group
      orientation="horizontal"
      className={classes.panels}
      defaultLayout={valid}
      onLayoutChanged={(layout, meta) => {
        if (meta.isUserInteraction)
          remember(PANELS_KEY, JSON.stringify({ ...storedSizes(), [name]: layout }));
      }}
    >
      <Panel id="run-tree" defaultSize={wide ? sideWidth() : "32%"} minSize={180} className={classes.panel}>
        <aside className={classes.side} aria-label="Jobs">
          <div className={classes.sideTitle}>
            <h2>Jobs</h2>
            <span className="dim tabular">{plural(jobCount, "job")}</span>
          </div>
          {tree}
        </aside>
      </Panel>
      <Separator className={classes.separator} aria-label="Resize job tree" />
      <Panel id="run-content" minSize={320} className={classes.panel}>
        <div className={classes.content}>{content}</div>
      </Panel>
      {wide ? (
        <>
          <Separator className={classes.separator} aria-label="Resize metadata" />
          <Panel id="run-metadata" defaultSize={sideWidth()} minSize={200} className={classes.panel}>
            <aside className={classes.side} aria-label="Metadata">
              {metadata}
            </aside>
          </Panel>
        </>
      ) : null}
    </Group>
  );
}

/** `n` and `p` go from failed step to failed step. */
function useFailedStepKeys(
  jobs: readonly JobView[],
  selection: Selection | null,
  onSelect: RunPageProps["onSelect"],
) {
  const failed = jobs.flatMap((job) =>
    job.steps
      .filter((step) => step.status === "failed")
      .map((step) => ({ jobId: job.jobId, stepIndex: step.stepIndex })),
  );
  const go = (direction: 1 | -1) => {
    if (failed.length === 0) return;
    const here = failed.findIndex(
      (each) => each.jobId === selection?.jobId && each.stepIndex === selection.stepIndex,
    );
    const next = failed.at((here + direction + failed.length) % failed.length);
    if (next) onSelect(next);
  };
  useHotkeys([
    ["n", () => go(1)],
    ["p", () => go(-1)],
  ]);
}

/** Says politely that the run has ended, for those who do not look. */
function useCompletionNotice(status: RunDetailView["run"]["displayStatus"]) {
  const previous = useRef(status);
  useEffect(() => {
    const ended = !isTerminal(previous.current) && isTerminal(status);
    previous.current = status;
    if (!ended) return;
    const region = document.getElementById("announcements");
    if (region) region.textContent = `Run ended: ${statusLook(status).label}`;
  }, [status]);
}
