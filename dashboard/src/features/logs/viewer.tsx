/** The log of one step, or of all steps of a job one after another. */
import { Button } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { ApiError } from "@/shared/api/client";
import type { JobView, StepProjection } from "@/shared/api/types";
import { formatCount } from "@/shared/format";
import { useFlag, useZone } from "@/shared/preferences";
import { isActive, isTerminal } from "@/shared/status";
import { ArrowDownIcon, ServerIcon } from "@/shared/ui/icons";
import { formatAnchor, parseAnchor } from "./anchor";
import { carryStates, installPalette } from "./ansi";
import "./ansi.css";
import { useFolding } from "./folding";
import { around, groupAt } from "./groups";
import { useLogHub } from "./hub";
import { GroupLine, LogLine, MissingLine } from "./line";
import classes from "./logs.module.css";
import { CompletionBanner, LogContext, NotStarted, StepHeader } from "./parts";
import { rawLogUrl } from "./queries";
import { LogScroller, type ScrollerHandle } from "./scroller";
import { type Match, useLogSearch } from "./search";
import type { LogStream } from "./stream";
import { LogToolbar } from "./toolbar";
import { Rows } from "./viewport";

let paletteInstalled = false;

export interface LogViewerProps {
  orgId: string;
  runId: string;
  job: JobView;
  /** Null shows all steps of the job. */
  stepIndex: number | null;
  hash: string;
  onHash: (hash: string) => void;
  orchestratorAway: boolean;
}

export function LogViewer(props: LogViewerProps) {
  const { job, stepIndex } = props;
  if (!paletteInstalled) {
    paletteInstalled = true;
    installPalette();
  }
  const steps =
    stepIndex === null
      ? job.steps.filter((step) => step.status !== "pending")
      : job.steps.filter((step) => step.stepIndex === stepIndex);
  const started = steps.some((step) => step.status !== "pending");
  if (!started) return <NotStarted job={job} step={stepIndex === null ? null : (steps[0] ?? null)} />;
  // A new selection or attempt is a new view: nothing of the old one's position is kept.
  return <Output key={`${job.jobId}:${job.attempt}:${stepIndex}`} {...props} steps={steps} />;
}

/** The streams of the shown steps, followed while this view is mounted. */
function useStreams(props: LogViewerProps & { steps: StepProjection[] }): LogStream[] {
  const { orgId, runId, job, steps } = props;
  const hub = useLogHub();
  const identity = steps.map((step) => `${step.stepIndex}:${step.attempt}`).join(",");
  // biome-ignore lint/correctness/useExhaustiveDependencies: `identity` stands for the steps
  const streams = useMemo(
    () =>
      steps.map((step) =>
        hub.stream({
          orgId,
          runId,
          jobId: job.jobId,
          stepIndex: step.stepIndex,
          attempt: step.attempt,
        }),
      ),
    [hub, orgId, runId, job.jobId, identity],
  );
  for (const [index, step] of steps.entries()) {
    if (isTerminal(step.status) && step.logLines !== null) streams[index]?.seed(step.logLines);
  }
  useEffect(() => {
    const releases = streams.map((stream) => stream.acquire());
    return () => {
      for (const release of releases) release();
    };
  }, [streams]);
  // A step may be known to have ended before its stream says so, e.g. while the socket is down.
  const ended = steps.map((step) => isTerminal(step.status)).join(",");
  // biome-ignore lint/correctness/useExhaustiveDependencies: `ended` is the trigger
  useEffect(() => {
    for (const [index, step] of steps.entries()) {
      const stream = streams[index];
      if (stream?.loaded && !stream.complete && isTerminal(step.status)) stream.reopen();
    }
  }, [ended, streams]);
  const subscribe = useCallback(
    (listener: () => void) => {
      const stops = streams.map((stream) => stream.subscribe(listener));
      return () => {
        for (const stop of stops) stop();
      };
    },
    [streams],
  );
  useSyncExternalStore(subscribe, () => streams.reduce((sum, stream) => sum + stream.getVersion(), 0));
  return streams;
}

function Output(props: LogViewerProps & { steps: StepProjection[] }) {
  const { job, stepIndex, hash, onHash, steps } = props;
  const combined = stepIndex === null;
  const streams = useStreams(props);
  const [showTime, setShowTime] = useFlag("kici:logs:timestamps", false);
  const [wrap, setWrap] = useFlag("kici:logs:wrap", false);
  const [zone] = useZone();
  const live = steps.some((step) => isActive(step.status));
  // The end is what one looks at first in a log that grows, and in one that failed.
  const [follow, setFollow] = useState(
    () => parseAnchor(hash) === null && (live || (!combined && steps[0]?.status === "failed")),
  );
  const [closed, setClosed] = useState<ReadonlySet<number>>(new Set());
  const scroller = useRef<ScrollerHandle>(null);
  const search = useLogSearch(streams);

  const anchor = parseAnchor(hash);
  const anchorSection = anchor
    ? anchor.step === null
      ? 0
      : steps.findIndex((step) => step.stepIndex === anchor.step)
    : -1;
  const folding = useFolding(
    steps,
    streams,
    anchor && { section: anchorSection, first: anchor.first - 1, last: anchor.last - 1 },
  );

  const lengths = steps.map((step, index) => {
    const key = `${step.stepIndex}:${streams[index]?.total ?? 0}`;
    return closed.has(step.stepIndex) ? `${key}:closed` : key;
  });
  const shape = `${lengths.join(",")}|${folding.shape}`;
  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` says when rows differ
  const rows = useMemo(
    () =>
      new Rows(
        steps.map((step, index) => ({
          key: step.stepIndex,
          header: combined,
          open: !closed.has(step.stepIndex),
          lines: streams[index]?.total ?? 0,
          hidden: folding.hidden[index] ?? [],
        })),
      ),
    [shape, combined],
  );

  // ── selection by #L42 ─────────────────────────────────────────────────────────────────────────
  /** Opens what hides a line: its step, its groups. False when nothing did. */
  const expose = (section: number, line: number): boolean => {
    const key = steps[section]?.stepIndex;
    const closedStep = key !== undefined && closed.has(key);
    if (closedStep) setClosed(new Set([...closed].filter((each) => each !== key)));
    return folding.expose(section, line) || closedStep;
  };
  const lastClicked = useRef<string | null>(null);
  const onSelect = (section: number, number: number, extend: boolean) => {
    const from = extend && anchor && anchorSection === section ? anchor.first : number;
    const next = formatAnchor({
      step: combined ? (steps[section]?.stepIndex ?? null) : null,
      first: Math.min(from, number),
      last: Math.max(from, number),
    });
    lastClicked.current = `#${next}`;
    setFollow(false);
    onHash(next);
  };

  // ── where the view begins ───────────────────────────────────────────────────────────────────────
  const placedFor = useRef<string | null>(null);
  useEffect(() => {
    const wanted = anchor ? `#${hash.replace(/^#/, "")}` : "begin";
    if (placedFor.current === wanted || lastClicked.current === wanted) return;
    if (anchor) {
      const stream = streams[anchorSection];
      if (!stream?.loaded || stream.total < anchor.first) return;
      if (expose(anchorSection, anchor.first - 1)) return;
      const row = rows.rowNear(anchorSection, anchor.first - 1);
      if (row === null) return;
      placedFor.current = wanted;
      scroller.current?.scrollToRow(row, "center");
      return;
    }
    if (placedFor.current !== null || live || !combined) {
      placedFor.current = wanted;
      return;
    }
    const failed = steps.findIndex((step) => step.status === "failed");
    const stream = streams[failed];
    if (failed >= 0 && !stream?.loaded && !stream?.error) return;
    placedFor.current = wanted;
    const lastRow = failed >= 0 && stream ? rows.rowNear(failed, stream.total - 1) : null;
    if (lastRow !== null && lastRow > 0) scroller.current?.scrollToRow(lastRow, "nearest");
  });

  // ── what is on screen gets loaded ───────────────────────────────────────────────────────────────
  const onRange = useCallback(
    (first: number, last: number) => {
      const seen = new Map<number, [number, number][]>();
      for (let row = first; row <= last; row++) {
        const place = rows.at(row);
        if (place.kind !== "line") continue;
        const ranges = seen.get(place.section) ?? [];
        const range = ranges.at(-1);
        if (range && range[1] + 1 === place.line) range[1] = place.line;
        else ranges.push([place.line, place.line]); // what is folded is not read
        seen.set(place.section, ranges);
      }
      for (const [section, ranges] of seen) streams[section]?.want(ranges);
    },
    [rows, streams],
  );

  // ── search ──────────────────────────────────────────────────────────────────────────────────────
  const matched = useMemo(() => matchesByLine(search.matches), [search.matches]);
  const toReveal = useRef<Match | null>(null);
  const reveal = (match: Match | null) => {
    if (!match) return;
    if (expose(match.section, match.line)) {
      toReveal.current = match; // as soon as its row is there
      return;
    }
    toReveal.current = null;
    const row = rows.rowNear(match.section, match.line);
    if (row !== null) scroller.current?.scrollToRow(row, "nearest");
  };
  useEffect(() => {
    if (toReveal.current) reveal(toReveal.current);
  });
  const firstMatch = search.matches.length > 0 ? search.asked : "";
  // biome-ignore lint/correctness/useExhaustiveDependencies: only a new result list moves the view
  useEffect(() => {
    if (firstMatch) reveal(search.current);
  }, [firstMatch]);

  useHotkeys([
    ["w", () => setWrap(!wrap)],
    ["t", () => setShowTime(!showTime)],
    ["c", () => folding.folded !== null && folding.fold(!folding.folded)],
  ]);

  const gutter = Math.max(3, ...streams.map((stream) => String(stream.total).length)) + 3;
  const pausedAt = useRef(rows.count);
  if (follow) pausedAt.current = rows.count;
  const unseen = rows.count - pausedAt.current;

  const toggle = (key: number) =>
    setClosed((now) => new Set(now.has(key) ? [...now].filter((each) => each !== key) : [...now, key]));
  const header = (section: number) => {
    const step = steps[section];
    const stream = streams[section];
    return step && stream ? (
      <StepHeader
        step={step}
        stream={stream}
        open={!closed.has(step.stepIndex)}
        onToggle={() => toggle(step.stepIndex)}
        rawUrl={rawLogUrl(stream.target)}
      />
    ) : null;
  };

  const renderRow = (row: number) => {
    const place = rows.at(row);
    if (place.kind === "header") return header(place.section);
    const stream = streams[place.section];
    const line = stream?.line(place.line) ?? null;
    const number = place.line + 1;
    if (!stream) return null;
    const current = search.current;
    const groups = stream.markers.groups();
    const common = {
      number,
      time: showTime && line ? line.ts : null,
      zone,
      selected:
        anchor !== null &&
        anchorSection === place.section &&
        number >= anchor.first &&
        number <= anchor.last,
      matches: matched.get(`${place.section}:${place.line}`) ?? null,
      current: current?.section === place.section && current.line === place.line ? current : null,
      depth: around(groups, place.line).length,
    };
    const group = groupAt(groups, place.line);
    if (group) {
      return (
        <GroupLine
          {...common}
          title={group.title}
          open={folding.isOpen(place.section, group)}
          lines={group.last === null ? null : group.last - group.first - 1}
          onToggle={() => {
            // Who folds what is being written wants to see what comes after it.
            if (!live || !folding.isOpen(place.section, group)) setFollow(false);
            folding.toggle(place.section, group);
          }}
          onSelect={(selected, extend) => onSelect(place.section, selected, extend)}
        />
      );
    }
    if (!line) return <MissingLine number={number} />;
    return (
      <BoundLine
        {...common}
        section={place.section}
        onSelect={onSelect}
        text={line.text}
        carry={stream.carry(place.line, carryStates)}
        fullUrl={line.cut ? rawLogUrl(stream.target) : null}
      />
    );
  };

  const error = streams.find((stream) => stream.error)?.error ?? null;
  const away =
    error !== null && (!(error instanceof ApiError) || error.orchestratorAway || error.status === 0);
  const empty = rows.count === 0;
  const allLoaded = streams.every((stream) => stream.loaded);

  return (
    <div
      className={classes.viewer}
      style={{ "--gutter": `${gutter}ch` } as React.CSSProperties}
      data-testid="log-viewer"
      data-complete={streams.every((stream) => stream.complete) || undefined}
    >
      <LogToolbar
        search={search}
        onReveal={reveal}
        showTime={showTime}
        onShowTime={setShowTime}
        wrap={wrap}
        onWrap={setWrap}
        rawUrl={combined || !streams[0] ? null : rawLogUrl(streams[0].target)}
        folded={folding.folded}
        onFold={folding.fold}
        context={<LogContext steps={steps} streams={streams} combined={combined} />}
      />
      {error ? (
        <div className={classes.note} role="status" data-compact={!empty || undefined}>
          <ServerIcon size={22} className={classes.noteIcon} />
          {away ? (
            <>
              <strong>Log content is served by the orchestrator, which is currently offline</strong>
              <span>It is read again as soon as the orchestrator is back.</span>
            </>
          ) : (
            <>
              <strong>The log could not be read</strong>
              <span>{error.message}</span>
            </>
          )}
          <Button
            variant="default"
            mt={8}
            onClick={() => {
              for (const stream of streams) if (stream.error) stream.reopen();
            }}
          >
            Retry
          </Button>
        </div>
      ) : empty && allLoaded ? (
        <div className={classes.note} role="status">
          {live ? (
            <>
              <strong>Running</strong>
              <span>No output so far.</span>
            </>
          ) : (
            <>
              <strong>No output</strong>
              <span>This step wrote nothing.</span>
            </>
          )}
        </div>
      ) : (
        <LogScroller
          handle={scroller}
          rows={rows}
          wrap={wrap}
          follow={follow}
          onFollow={setFollow}
          renderRow={renderRow}
          rowKey={(row) => {
            const place = rows.at(row);
            const key = rows.sections[place.section]?.key;
            return place.kind === "header" ? `${key}:h` : `${key}:${place.line}`;
          }}
          onRange={onRange}
          renderSticky={
            combined
              ? (first) => {
                  const place = rows.count > 0 ? rows.at(first) : null;
                  return place?.kind === "line" ? (
                    <div className={classes.stuck} aria-hidden="true">
                      {header(place.section)}
                    </div>
                  ) : null;
                }
              : undefined
          }
          label={combined ? `Log of ${job.displayName}` : `Log of ${steps[0]?.stepName}`}
        />
      )}
      {!follow && live && !error ? (
        <Button
          className={classes.jump}
          radius="xl"
          leftSection={<ArrowDownIcon size={14} />}
          onClick={() => scroller.current?.scrollToEnd()}
        >
          Jump to bottom
          {unseen > 0 ? ` · ${formatCount(unseen)} new` : ""}
        </Button>
      ) : null}
      <CompletionBanner job={job} steps={steps} streams={streams} combined={combined} />
    </div>
  );
}

function matchesByLine(matches: readonly Match[]): Map<string, Match[]> {
  return Map.groupBy(matches, ({ section, line }) => `${section}:${line}`);
}

type LineProps = React.ComponentProps<typeof LogLine>;

/** Gives a line a stable `onSelect`, so that scrolling draws only the lines that come in. */
function BoundLine({
  section,
  onSelect,
  ...rest
}: Omit<LineProps, "onSelect"> & {
  section: number;
  onSelect: (section: number, number: number, extend: boolean) => void;
}) {
  const latest = useRef(onSelect);
  latest.current = onSelect;
  const select = useCallback(
    (number: number, extend: boolean) => latest.current(section, number, extend),
    [section],
  );
  return <LogLine {...rest} onSelect={select} />;
}
