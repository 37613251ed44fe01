/** Times, durations, sizes and counts as people read them. Pure. */

export type Zone = "local" | "utc";

export function formatDuration(ms: number): string {
  if (ms < 0) return "0s";
  if (ms < 1000) return `${Math.round(ms)}ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  return formatSeconds(Math.floor(seconds));
}

/** For running things: whole seconds, so that the text does not flicker. */
export function formatTicking(ms: number): string {
  return formatSeconds(Math.max(0, Math.floor(ms / 1000)));
}

function formatSeconds(total: number): string {
  if (total < 60) return `${total}s`;
  if (total < 3600) return `${Math.floor(total / 60)}m ${total % 60}s`;
  if (total < 86_400) return `${Math.floor(total / 3600)}h ${Math.floor((total % 3600) / 60)}m`;
  return `${Math.floor(total / 86_400)}d ${Math.floor((total % 86_400) / 3600)}h`;
}

export function formatRelative(atMs: number, nowMs: number): string {
  const ago = Math.floor((nowMs - atMs) / 1000);
  if (ago < 5) return "just now";
  const of = (value: number, unit: string) => `${value} ${unit}${value === 1 ? "" : "s"} ago`;
  if (ago < 60) return of(ago, "second");
  if (ago < 3600) return of(Math.floor(ago / 60), "minute");
  if (ago < 86_400) return of(Math.floor(ago / 3600), "hour");
  if (ago < 30 * 86_400) return of(Math.floor(ago / 86_400), "day");
  if (ago < 365 * 86_400) return of(Math.floor(ago / (30 * 86_400)), "month");
  return of(Math.floor(ago / (365 * 86_400)), "year");
}

/** `in 5 minutes`: coarse, rounded down; what is due or late is `now`. */
export function formatUntil(atMs: number, nowMs: number): string {
  const seconds = Math.floor((atMs - nowMs) / 1000);
  if (seconds < 1) return "now";
  const of = (value: number, unit: string) => `in ${value} ${unit}${value === 1 ? "" : "s"}`;
  if (seconds < 60) return of(seconds, "second");
  if (seconds < 3600) return of(Math.floor(seconds / 60), "minute");
  if (seconds < 86_400) return of(Math.floor(seconds / 3600), "hour");
  return of(Math.floor(seconds / 86_400), "day");
}

const pad = (value: number, width = 2) => String(value).padStart(width, "0");

function parts(atMs: number, zone: Zone) {
  const at = new Date(atMs);
  return zone === "utc"
    ? {
        date: `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`,
        time: `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}:${pad(at.getUTCSeconds())}`,
        ms: pad(at.getUTCMilliseconds(), 3),
      }
    : {
        date: `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`,
        time: `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`,
        ms: pad(at.getMilliseconds(), 3),
      };
}

function zoneName(atMs: number, zone: Zone): string {
  if (zone === "utc") return "UTC";
  const offset = -new Date(atMs).getTimezoneOffset();
  const sign = offset < 0 ? "−" : "+";
  return `UTC${sign}${pad(Math.floor(Math.abs(offset) / 60))}:${pad(Math.abs(offset) % 60)}`;
}

/** `2026-03-01 14:05:09`, where the zone is told elsewhere. */
export function formatInstant(atMs: number, zone: Zone): string {
  const { date, time } = parts(atMs, zone);
  return `${date} ${time}`;
}

/** `2026-03-01 14:05:09 UTC` */
export function formatAbsolute(atMs: number, zone: Zone): string {
  const { date, time } = parts(atMs, zone);
  return `${date} ${time} ${zoneName(atMs, zone)}`;
}

/** `14:05:09` */
export function formatTime(atMs: number, zone: Zone): string {
  return parts(atMs, zone).time;
}

/** `14:05:09.042`, for log gutters. */
export function formatLogTime(atMs: number, zone: Zone): string {
  const { time, ms } = parts(atMs, zone);
  return `${time}.${ms}`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  let value = bytes;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    value /= 1024;
    if (value < 1024 || unit === "TiB")
      return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
  }
  return "";
}

export function formatCount(value: number): string {
  return value.toLocaleString("en-US");
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${formatCount(count)} ${count === 1 ? one : many}`;
}

export function shortSha(sha: string): string {
  return sha.slice(0, 7);
}

/** `refs/heads/main` → `main`. */
export function shortRef(ref: string): string {
  return ref.replace(/^refs\/(heads|tags|pull)\//, "");
}

/** Epoch ms of a server timestamp, or null. */
export function at(time: string | null | undefined): number | null {
  return time ? Date.parse(time) : null;
}
