import { Tooltip } from "@mantine/core";
import type { JobView, RunDetailView } from "@/shared/api/types";
import { useNow } from "@/shared/clock";
import { at, formatAbsolute, formatDuration, formatTicking, formatTime, type Zone } from "@/shared/format";
import { useZone } from "@/shared/preferences";
import { isActive, isTerminal, jobDisplay, statusLook } from "@/shared/status";
import { ClockIcon } from "@/shared/ui/icons";
import { Empty } from "@/shared/ui/page";
import { StatusIcon } from "@/shared/ui/status";
import classes from "./run.module.css";
import type { Selection } from "./selection";
import { span, ticks } from "./timeline-model";
import { jobLabel } from "./tree-model";

interface TimelineProps {
  detail: RunDetailView;
  selection: Selection | null;
  onSelect: (selection: Selection) => void;
}

const MILESTONES: Record<string, string> = {
  "scaler.provisioning": "Provisioning",
  "scaler.network": "Network ready",
  "scaler.ready": "Agent ready",
  "scaler.failed": "Provisioning failed",
  "agent.connecting": "Agent connecting",
};

export function Timeline({ detail, selection, onSelect }: TimelineProps) {
  const { run, jobs } = detail;
  const [zone] = useZone();
  const live = !isTerminal(run.status);
  const now = useNow(live);
  const begin = Date.parse(run.createdAt);
  const end = Math.max(begin + 1000, at(run.completedAt) ?? now);
  const whole = end - begin;
  const percent = (time: number) =>
    `${(Math.min(1, Math.max(0, (time - begin) / whole)) * 100).toFixed(3)}%`;
  const marks = ticks(whole);
  const milestones = detail.events.filter((event) => MILESTONES[event.eventType]);
  if (jobs.length === 0) return <Empty icon={ClockIcon} title="Waiting for jobs" />;
  return (
    <div className={classes.timeline} data-testid="timeline">
      <div className={classes.axis} aria-hidden="true">
        <span className={classes.axisName}>{formatTime(begin, zone)}</span>
        <div className={classes.axisTrack}>
          {marks.map((ms) => (
            <span key={ms} className={classes.tick} style={{ left: percent(begin + ms) }}>
              {ms === 0 ? "0" : formatTicking(ms) === "0s" ? `${ms}ms` : tickText(ms)}
            </span>
          ))}
        </div>
      </div>
      {milestones.length > 0 ? (
        <div className={classes.milestones}>
          <span className={classes.axisName}>Provisioning milestones</span>
          <div className={classes.axisTrack}>
            {milestones.map((event) => (
              <Tooltip
                key={`${event.timestampMs}:${event.eventType}`}
                label={`${MILESTONES[event.eventType]} · ${formatAbsolute(event.timestampMs, zone)}`}
              >
                <span
                  className={classes.milestone}
                  data-tone={event.eventType === "scaler.failed" ? "failed" : "running"}
                  style={{ left: percent(event.timestampMs) }}
                />
              </Tooltip>
            ))}
          </div>
        </div>
      ) : null}
      <div className={classes.lanes}>
        <div className={classes.gridlines} aria-hidden="true">
          {marks.map((ms) => (
            <span key={ms} style={{ left: percent(begin + ms) }} />
          ))}
        </div>
        {jobs.map((job) => (
          <Lane
            key={job.jobId}
            job={job}
            now={now}
            zone={zone}
            percent={percent}
            selected={selection?.jobId === job.jobId}
            onSelect={onSelect}
          />
        ))}
      </div>
      <p className={classes.timelineNote}>
        <span className={classes.legendQueue} /> waiting
        <span className={classes.legendRun} /> running · {live ? "so far" : "in all"}{" "}
        {live ? formatTicking(whole) : formatDuration(whole)} since the trigger arrived
      </p>
    </div>
  );
}

function tickText(ms: number): string {
  return ms < 60_000 ? `${ms / 1000}s` : formatTicking(ms).replace(" 0s", "");
}

interface LaneProps {
  job: JobView;
  now: number;
  zone: Zone;
  percent: (time: number) => string;
  selected: boolean;
  onSelect: (selection: Selection) => void;
}

function Lane({ job, now, zone, percent, selected, onSelect }: LaneProps) {
  const status = jobDisplay(job);
  const { queued, started, ended } = span(job, now);
  const width = (from: number, to: number) => `max(2px, calc(${percent(to)} - ${percent(from)}))`;
  const running = isActive(job.status);
  return (
    <button
      type="button"
      className={classes.lane}
      data-selected={selected || undefined}
      onClick={() => onSelect({ jobId: job.jobId, stepIndex: null })}
    >
      <span className={classes.laneName}>
        <StatusIcon status={status} size={14} />
        <span className="truncate">{jobLabel(job)}</span>
      </span>
      <Tooltip
        label={
          <>
            {queued !== null ? <div>Queued {formatAbsolute(queued, zone)}</div> : null}
            {started !== null ? <div>Started {formatAbsolute(started, zone)}</div> : null}
            {started !== null && ended !== null && !running ? (
              <div>Finished {formatAbsolute(ended, zone)}</div>
            ) : null}
            <div>
              {statusLook(status).label}
              {started !== null && ended !== null ? ` · ${formatDuration(ended - started)}` : ""}
            </div>
          </>
        }
      >
        <span className={classes.laneTrack}>
          {queued !== null ? (
            <span
              className={classes.queueBar}
              style={{ left: percent(queued), width: width(queued, started ?? ended ?? now) }}
            />
          ) : null}
          {started !== null && ended !== null ? (
            <span
              className={classes.runBar}
              data-tone={statusLook(status).tone}
              data-running={running || undefined}
              style={{ left: percent(started), width: width(started, ended) }}
            />
          ) : null}
        </span>
      </Tooltip>
    </button>
  );
}
