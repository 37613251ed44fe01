/** Wires the socket to the query cache and the log streams. */
import type { QueryClient } from "@tanstack/react-query";
import { LogHub } from "@/features/logs/hub";
import { findLogMarkers, readLogPage } from "@/features/logs/queries";
import { LiveSocket } from "@/shared/live/socket";
import { applyEvent } from "./apply-event";

const POLL_AFTER_MS = 10_000;
const POLL_EVERY_MS = 10_000;

export interface Live {
  socket: LiveSocket;
  logs: LogHub;
}

export function makeLive(cache: QueryClient): Live {
  const socket: LiveSocket = new LiveSocket((frames) => {
    for (const frame of frames) applyEvent(cache, logs, frame);
  });
  const logs = new LogHub(
    readLogPage,
    ({ attempt: _attempt, ...target }, lineCount) => socket.followLog(target, lineCount),
    findLogMarkers,
  );
  // Where no WebSocket gets through, what is on screen is asked for again from time to time.
  setInterval(() => {
    const down = socket.state === "closed" || socket.state === "connecting" ? socket.downSinceMs : null;
    if (down === null || Date.now() - down < POLL_AFTER_MS || document.hidden) return;
    void cache.invalidateQueries({ queryKey: ["org"] });
    logs.poll();
  }, POLL_EVERY_MS);
  return { socket, logs };
}
