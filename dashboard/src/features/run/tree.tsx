import { useVirtualizer } from "@tanstack/react-virtual";
import {
  type CSSProperties,
  type KeyboardEvent,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";
import type { JobView } from "@/shared/api/types";
import { at } from "@/shared/format";
import { isActive, jobDisplay } from "@/shared/status";
import { CacheIcon, ChevronRightIcon, ClockIcon, GearStepIcon, HookIcon } from "@/shared/ui/icons";
import { Empty } from "@/shared/ui/page";
import { Chip, StatusIcon } from "@/shared/ui/status";
import { Duration } from "@/shared/ui/time";
import classes from "./run.module.css";
import type { Selection } from "./selection";
import type { StepBadge } from "./step-kinds";
import { jobKey, stepKey, type TreeRow, treeRows } from "./tree-model";

const ROW_HEIGHT = 32;
const NOTED_ROW_HEIGHT = 46;

interface TreeProps {
  jobs: readonly JobView[];
  selection: Selection | null;
  onSelect: (selection: Selection) => void;
  /** Escape: back to the first job. */
  onReset: () => void;
}

function keyOf({ jobId, stepIndex }: Selection): string {
  return stepIndex === null ? jobKey(jobId) : stepKey(jobId, stepIndex);
}

export function JobTree({ jobs, selection, onSelect, onReset }: TreeProps) {
  // Groups begin open, jobs closed; selecting a job opens it, and only people close anything.
  const [toggled, setToggled] = useState<ReadonlyMap<string, boolean>>(() => new Map());
  const selectedJob = selection?.jobId;
  const [opened, setOpened] = useState<ReadonlySet<string>>(() => new Set());
  if (selectedJob && !opened.has(selectedJob)) setOpened(new Set([...opened, selectedJob]));
  const rows = useMemo(() => {
    const openJobs = new Set([...opened].map(jobKey));
    return treeRows(jobs, (key) => toggled.get(key) ?? (key.startsWith("group:") || openJobs.has(key)));
  }, [jobs, toggled, opened]);

  const selectedKey = selection ? keyOf(selection) : null;
  const [focusKey, setFocusKey] = useState<string | null>(null);
  const focusIndex = Math.max(
    0,
    rows.findIndex((row) => row.key === (focusKey ?? selectedKey)),
  );
  const focused = rows[focusIndex];

  const viewport = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => viewport.current,
    estimateSize: (index) => heightOf(rows[index]),
    getItemKey: (index) => rows[index]?.key ?? index,
    overscan: 12,
  });

  // Heights follow from the rows; a note that comes or goes moves those below it.
  const noted = rows.map((row) => (noteOf(row) ? "1" : "0")).join("");
  // biome-ignore lint/correctness/useExhaustiveDependencies: `noted` is the trigger
  useLayoutEffect(() => virtual.measure(), [noted]);

  // A selection that comes with the URL is brought into view.
  const selectedIndex = rows.findIndex((row) => row.key === selectedKey);
  // biome-ignore lint/correctness/useExhaustiveDependencies: only another selection moves the view
  useEffect(() => {
    if (selectedIndex >= 0) virtual.scrollToIndex(selectedIndex, { align: "auto" });
  }, [selectedKey]);

  const setOpen = (key: string, open: boolean) => setToggled(new Map(toggled).set(key, open));
  const move = (index: number) => {
    const row = rows[index];
    if (!row) return;
    setFocusKey(row.key);
    virtual.scrollToIndex(index, { align: "auto" });
  };
  const select = (row: TreeRow) => {
    setFocusKey(row.key);
    if (row.kind === "group") setOpen(row.key, !row.open);
    else onSelect({ jobId: row.job.jobId, stepIndex: row.kind === "step" ? row.step.stepIndex : null });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !focused) return;
    const parent = () => rows.findLastIndex((row, i) => i < focusIndex && row.level < focused.level);
    switch (event.key) {
      case "ArrowDown":
        move(focusIndex + 1);
        break;
      case "ArrowUp":
        move(focusIndex - 1);
        break;
      case "Home":
        move(0);
        break;
      case "End":
        move(rows.length - 1);
        break;
      case "ArrowRight":
        if (focused.kind !== "step" && !focused.open) setOpen(focused.key, true);
        else if ((rows[focusIndex + 1]?.level ?? 0) > focused.level) move(focusIndex + 1);
        break;
      case "ArrowLeft":
        if (focused.kind !== "step" && focused.open) setOpen(focused.key, false);
        else move(parent());
        break;
      case "Enter":
      case " ":
        select(focused);
        break;
      case "Escape":
        setFocusKey(null);
        onReset();
        break;
      default:
        return;
    }
    event.preventDefault();
  };

  if (jobs.length === 0) return <Empty icon={ClockIcon} title="Waiting for jobs" />;
  return (
    <div
      ref={viewport}
      className={classes.tree}
      role="tree"
      aria-label="Jobs and steps"
      tabIndex={0}
      aria-activedescendant={focused ? `tree-${focused.key}` : undefined}
      onKeyDown={onKeyDown}
      data-testid="job-tree"
    >
      <div style={{ height: virtual.getTotalSize(), position: "relative" }} role="presentation">
        {virtual.getVirtualItems().map((item) => {
          const row = rows[item.index];
          if (!row) return null;
          return (
            // biome-ignore lint/a11y/useKeyWithClickEvents: the tree handles keys for the active descendant
            <div
              key={row.key}
              id={`tree-${row.key}`}
              role="treeitem"
              aria-level={row.level}
              aria-selected={row.key === selectedKey}
              aria-expanded={row.kind === "step" || !expandable(row) ? undefined : row.open}
              tabIndex={-1}
              className={classes.treeRow}
              data-kind={row.kind}
              data-setup={isSetupRow(row) || undefined}
              data-status={statusOf(row)}
              data-focused={row === focused || undefined}
              data-band={row.kind === "step" && row.band ? bandEnds(row.band) : undefined}
              style={{
                transform: `translateY(${item.start}px)`,
                height: heightOf(row),
                paddingLeft: 6 + (row.level - 1) * 18,
                ...(row.kind === "step" && row.band
                  ? ({ "--band-left": `${(row.level - 1) * 18 + 7}px` } as CSSProperties)
                  : {}),
              }}
              onClick={() => select(row)}
            >
              <RowContent row={row} onToggle={() => row.kind !== "step" && setOpen(row.key, !row.open)} />
            </div>
          );
        })}
      </div>
    </div>
  );
}

function expandable(row: TreeRow): boolean {
  return row.kind === "group" || (row.kind === "job" && row.job.steps.length > 0);
}

function isSetupRow(row: TreeRow): boolean {
  return row.kind !== "group" && row.setup;
}

function bandEnds({ first, last }: { first: boolean; last: boolean }): string {
  return [first ? "first" : "", last ? "last" : ""].join(" ").trim() || "middle";
}

function noteOf(row: TreeRow | undefined): string | null {
  return row && row.kind !== "group" ? row.note : null;
}

/** What its author says of a job is told by its name to those who rest on it. */
function titleOf(row: TreeRow): string {
  return row.kind === "job" && row.job.description ? `${row.label}\n${row.job.description}` : row.label;
}

function heightOf(row: TreeRow | undefined): number {
  return noteOf(row) ? NOTED_ROW_HEIGHT : ROW_HEIGHT;
}

function statusOf(row: TreeRow) {
  return row.kind === "group" ? row.status : row.kind === "job" ? jobDisplay(row.job) : row.step.status;
}

const BADGE_ICONS = { hook: HookIcon, cache: CacheIcon, init: GearStepIcon, check: null };

function Badge({ badge: { kind, text, tone, title } }: { badge: StepBadge }) {
  const Icon = BADGE_ICONS[kind];
  return (
    <span className={classes.stepBadge} title={title} data-badge={kind}>
      <Chip tone={tone}>
        {Icon ? <Icon size={11} /> : null}
        {text}
      </Chip>
    </span>
  );
}

function RowContent({ row, onToggle }: { row: TreeRow; onToggle: () => void }) {
  const note = noteOf(row);
  return (
    <>
      {row.kind === "step" ? (
        <span className={classes.treeIndent} />
      ) : (
        // biome-ignore lint/a11y/noStaticElementInteractions: arrow keys on the tree item do the same
        // biome-ignore lint/a11y/useKeyWithClickEvents: as above
        <span
          className={classes.treeToggle}
          data-hidden={!expandable(row) || undefined}
          data-testid="tree-toggle"
          onClick={(event) => {
            event.stopPropagation();
            onToggle();
          }}
        >
          <ChevronRightIcon size={13} className={classes.chevron} data-open={row.open || undefined} />
        </span>
      )}
      <StatusIcon status={statusOf(row)} size={15} />
      <span className={classes.treeText}>
        <span className={classes.treeLabel} title={titleOf(row)}>
          {row.label}
        </span>
        {note ? (
          <span className={classes.treeNote} title={note}>
            {note}
          </span>
        ) : null}
      </span>
      {row.kind === "step" && row.badge ? <Badge badge={row.badge} /> : null}
      {row.kind === "job" && row.job.attempt > 1 ? <Chip>attempt {row.job.attempt}</Chip> : null}
      <span className={classes.treeTime}>
        {row.kind === "group" || statusOf(row) === "skipped" ? null : row.kind === "job" ? (
          <Duration
            startedAt={at(row.job.startedAt)}
            durationMs={row.job.durationMs}
            ticking={isActive(row.job.status)}
            fallback=""
          />
        ) : (
          <Duration
            startedAt={at(row.step.startedAt)}
            durationMs={row.step.durationMs}
            ticking={isActive(row.step.status)}
            fallback=""
          />
        )}
      </span>
    </>
  );
}
