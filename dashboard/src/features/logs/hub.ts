/** All log streams of the page, and where live frames find theirs. */
import { createContext, useContext } from "react";
import type { LogEnded, LogGap, LogLines } from "@/ws.gen";
import { type FindMarkers, type Follow, LogStream, type ReadPage, type StreamTarget } from "./stream";

const STREAMS_KEPT = 24;

export class LogHub {
  private readonly streams = new Map<string, LogStream>();

  constructor(
    private readonly readPage: ReadPage,
    private readonly follow: Follow,
    private readonly findMarkers?: FindMarkers,
  ) {}

  stream(target: StreamTarget): LogStream {
    const key = `${target.jobId}:${target.stepIndex}:${target.attempt}`;
    let stream = this.streams.get(key);
    if (stream)
      this.streams.delete(key); // to the end: most recently used
    else stream = new LogStream(target, this.readPage, this.follow, this.findMarkers);
    this.streams.set(key, stream);
    for (const [oldest, candidate] of this.streams) {
      if (this.streams.size <= STREAMS_KEPT) break;
      if (!candidate.inUse) this.streams.delete(oldest);
    }
    return stream;
  }

  lines(event: LogLines): void {
    for (const stream of this.of(event)) stream.takeLines(event);
  }

  gap(event: LogGap): void {
    for (const stream of this.of(event)) stream.takeGap(event);
  }

  ended(event: LogEnded): void {
    for (const stream of this.of(event)) stream.takeEnd(event);
  }

  orchestratorReturned(): void {
    for (const stream of this.streams.values()) if (stream.error) stream.reopen();
  }

  /** Without a socket: what is watched and has not ended is read again. */
  poll(): void {
    for (const stream of this.streams.values()) if (!stream.complete) stream.reopen();
  }

  private of(event: { jobId: string; stepIndex: number }): LogStream[] {
    return [...this.streams.values()].filter(
      ({ inUse, target }) => inUse && target.jobId === event.jobId && target.stepIndex === event.stepIndex,
    );
  }
}

const HubContext = createContext<LogHub | null>(null);
export const LogHubProvider = HubContext.Provider;

export function useLogHub(): LogHub {
  const hub = useContext(HubContext);
  if (!hub) throw new Error("LogHubProvider is missing");
  return hub;
}
