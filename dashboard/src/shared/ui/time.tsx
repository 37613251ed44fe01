import { Tooltip } from "@mantine/core";
import { useNow } from "@/shared/clock";
import {
  formatAbsolute,
  formatDuration,
  formatInstant,
  formatRelative,
  formatTicking,
  formatUntil,
} from "@/shared/format";
import { useZone } from "@/shared/preferences";

/** “5 minutes ago”; the absolute time with its zone on hover or focus. */
export function RelativeTime({ at, focusable }: { at: number; focusable?: boolean }) {
  const now = useNow();
  const [zone] = useZone();
  return (
    <Tooltip label={formatAbsolute(at, zone)}>
      <time
        dateTime={new Date(at).toISOString()}
        className="tabular"
        style={{ whiteSpace: "nowrap" }}
        tabIndex={focusable ? 0 : undefined}
      >
        {formatRelative(at, now)}
      </time>
    </Tooltip>
  );
}

/** “in 5 minutes”; the absolute time with its zone on hover. */
export function UntilTime({ at }: { at: number }) {
  const now = useNow();
  const [zone] = useZone();
  return (
    <Tooltip label={formatAbsolute(at, zone)}>
      <time dateTime={new Date(at).toISOString()} className="tabular" style={{ whiteSpace: "nowrap" }}>
        {formatUntil(at, now)}
      </time>
    </Tooltip>
  );
}

/** `2026-03-01 14:05:09`; how long ago, and the zone, on hover. */
export function AbsoluteTime({ at }: { at: number }) {
  const [zone] = useZone();
  return (
    <Tooltip label={<TooltipTime at={at} />}>
      <time dateTime={new Date(at).toISOString()} className="tabular">
        {formatInstant(at, zone)}
      </time>
    </Tooltip>
  );
}

function TooltipTime({ at }: { at: number }) {
  const [zone] = useZone();
  return (
    <>
      {formatAbsolute(at, zone)} · {formatRelative(at, useNow())}
    </>
  );
}

interface DurationProps {
  startedAt: number | null;
  /** Known once finished. */
  durationMs: number | null;
  ticking: boolean;
  fallback?: string;
}

/** A finished duration, or one that ticks every second. */
export function Duration({ startedAt, durationMs, ticking, fallback = "—" }: DurationProps) {
  const live = ticking && startedAt !== null;
  const now = useNow(live);
  const text = live
    ? formatTicking(now - startedAt)
    : durationMs !== null
      ? formatDuration(durationMs)
      : fallback;
  return (
    <span className="tabular" style={{ whiteSpace: "nowrap" }}>
      {text}
    </span>
  );
}
