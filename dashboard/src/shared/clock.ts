/** One ticking clock for the whole page, corrected by the server's when the two differ visibly. */
import { useSyncExternalStore } from "react";

let skewMs = 0;

/** Takes the Date header of an answer. It has whole seconds, so only a real difference counts. */
export function noteServerTime(dateHeader: string | null): void {
  if (!dateHeader) return;
  const difference = Date.parse(dateHeader) + 500 - Date.now();
  skewMs = Math.abs(difference) > 2000 ? difference : 0;
}

export function serverNow(): number {
  return Date.now() + skewMs;
}

const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;
let second = 0;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    second = Math.floor(serverNow() / 1000) * 1000;
    for (const each of listeners) each();
  }, 1000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}

const idle = () => () => {};

/** Server time in ms, new every second while `ticking`. */
export function useNow(ticking = true): number {
  const now = useSyncExternalStore(ticking ? subscribe : idle, () => second);
  return ticking ? Math.max(now, 0) || serverNow() : serverNow();
}
