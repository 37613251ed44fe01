/**
 * One step's output as a sparse array of lines, filled from two sides: pages read by REST where
 * someone looks, and live lines at the end. A line's number is its identity, so overlap is harmless
 * and a hole is simply not loaded yet.
 */
import type { LogPage } from "@/shared/api/types";
import type { LogEnded, LogGap, LogLines } from "@/ws.gen";
import { Markers, type Range } from "./groups";

export const PAGE_LINES = 1000;
const MAX_PAGES_PER_READ = 5;
const MAX_READS = 3;
const MAX_LINES_KEPT = 200_000;
const RETRY_NOT_FOUND_MS = 1500;

export interface StreamTarget {
  orgId: string;
  runId: string;
  jobId: string;
  stepIndex: number;
  attempt: number;
}

export type ReadPage = (
  target: StreamTarget,
  range: { offset: number; limit: number } | { tail: number },
  signal: AbortSignal,
) => Promise<LogPage>;

/** Where the markers of groups are in the whole log; see groups.ts. */
export type FindMarkers = (
  target: StreamTarget,
  signal: AbortSignal,
) => Promise<{ line: number; preview: string }[]>;

export type Follow = (target: StreamTarget, lineCount: () => number) => () => void;

interface Page {
  lines: (string | undefined)[];
  ts: (number | undefined)[];
  cut: Set<number>;
  /** Came while the stream was growing: read once more now that it has ended. */
  stale: boolean;
  usedAt: number;
  /** SGR state at the start of each line, computed when first drawn; see ansi.ts. */
  carry: string[] | null;
}

export interface Line {
  text: string;
  ts: number | null;
  cut: boolean;
}

export class LogStream {
  total = 0;
  totalBytes = 0;
  complete = false;
  /** The first answer is here: `total` is true. */
  loaded = false;
  error: Error | null = null;
  readonly markers = new Markers();
  /** The log was complete or not when its markers were looked for. */
  private marked: "growing" | "complete" | null = null;
  private pages = new Map<number, Page>();
  private loadedLines = 0;
  private version = 0;
  private uses = 0;
  private wanted: readonly Range[] = [];
  private reading = new Set<number>();
  private reads = 0;
  private users = 0;
  private opening = false;
  private abort = new AbortController();
  private unfollow: (() => void) | null = null;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private readonly listeners = new Set<() => void>();

  constructor(
    readonly target: StreamTarget,
    private readonly readPage: ReadPage,
    private readonly follow: Follow,
    private readonly findMarkers: FindMarkers = async () => [],
  ) {}

  // ── what views use ──────────────────────────────────────────────────────────────────────────────

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  getVersion = (): number => this.version;

  get inUse(): boolean {
    return this.users > 0;
  }

  /** The step has ended with this many lines: nothing to follow, and nothing to read unless looked at. */
  seed(total: number): void {
    if (this.loaded) return;
    this.total = total;
    this.loaded = true;
    this.complete = true;
  }

  /** Reads the last page and follows a stream that has not ended, until released. */
  acquire(): () => void {
    this.users += 1;
    if (this.users === 1) {
      if (this.complete)
        this.begin(); // somebody may have looked already
      else void this.open();
    }
    return () => {
      this.users -= 1;
      if (this.users === 0) this.close();
    };
  }

  line(index: number): Line | null {
    const page = this.pages.get(Math.floor(index / PAGE_LINES));
    const text = page?.lines[index % PAGE_LINES];
    if (!page || text === undefined) return null;
    return {
      text,
      ts: page.ts[index % PAGE_LINES] ?? null,
      cut: page.cut.has(index % PAGE_LINES),
    };
  }

  /** The terminal colours in force where a line starts, as the SGR sequence that sets them. */
  carry(index: number, compute: (lines: (string | undefined)[], before: string) => string[]): string {
    const number = Math.floor(index / PAGE_LINES);
    const page = this.pages.get(number);
    if (!page) return "";
    if (!page.carry || page.carry.length <= index % PAGE_LINES) {
      const previous = this.pages.get(number - 1)?.carry?.[PAGE_LINES] ?? "";
      page.carry = compute(page.lines, previous);
    }
    return page.carry[index % PAGE_LINES] ?? "";
  }

  /** Asks for the lines that someone looks at, in order; what is missing is read, the newest wish first. */
  want(ranges: readonly Range[]): void {
    this.wanted = ranges;
    for (const number of this.wantedPages()) {
      const page = this.pages.get(number);
      if (page) page.usedAt = ++this.uses;
    }
    this.pump();
  }

  // ── what the socket tells ───────────────────────────────────────────────────────────────────────

  takeLines(event: LogLines): void {
    if (event.attempt !== this.target.attempt) return;
    this.put(event.firstLine, event.lines, event.ts);
    this.total = Math.max(this.total, event.lineCount, event.firstLine + event.lines.length);
    this.loaded = true;
    this.changed();
  }

  takeGap(event: LogGap): void {
    this.total = Math.max(this.total, event.firstLine + event.droppedLineCount);
    this.changed();
    this.pump();
  }

  takeEnd(event: LogEnded): void {
    if (event.reason !== "server_shutdown") this.stopFollowing(); // the socket asks again by itself
    switch (event.reason) {
      case "complete":
        void this.open();
        return;
      case "not_found": // the step has started but its first byte is not here yet
        this.retry = setTimeout(() => void this.open(), RETRY_NOT_FOUND_MS);
        return;
      case "orchestrator_away":
        this.error = new Error("The orchestrator went away");
        this.changed();
        return;
      case "permission_revoked":
        this.error = new Error("You may no longer read this log");
        this.changed();
        return;
      case "server_shutdown":
        return;
      default:
        event.reason satisfies never;
    }
  }

  reopen(): void {
    if (this.users > 0) void this.open();
  }

  // ── inside ──────────────────────────────────────────────────────────────────────────────────────

  private async open(): Promise<void> {
    if (this.opening) return;
    this.opening = true;
    clearTimeout(this.retry);
    try {
      const page = await this.readPage(this.target, { tail: PAGE_LINES }, this.abort.signal);
      this.error = null;
      this.takePage(page);
      this.loaded = true;
      if (page.complete) this.stopFollowing();
      else this.startFollowing();
    } catch (error) {
      if (this.abort.signal.aborted) return;
      this.error = error instanceof Error ? error : new Error(String(error));
    } finally {
      this.opening = false;
      this.changed();
    }
    this.begin();
  }

  private close(): void {
    this.abort.abort();
    this.abort = new AbortController();
    this.reading.clear();
    this.reads = 0;
    clearTimeout(this.retry);
    this.stopFollowing();
  }

  private begin(): void {
    this.pump();
    void this.mark();
  }

  /** A log that is not read whole at once may have groups where nobody has looked yet. */
  private async mark(): Promise<void> {
    const now = this.complete ? "complete" : "growing";
    if (this.total <= PAGE_LINES || this.marked === now || this.marked === "complete") return;
    const before = this.marked;
    this.marked = now;
    const signal = this.abort.signal;
    try {
      for (const { line, preview } of await this.findMarkers(this.target, signal))
        this.markers.note(line, preview);
      this.changed();
    } catch {
      this.marked = before; // lines tell of their groups themselves when they are read
    }
  }

  private startFollowing(): void {
    // The last known line may still be open: asking for it again gets the rest of it.
    this.unfollow ??= this.follow(this.target, () => Math.max(0, this.total - 1));
  }

  private stopFollowing(): void {
    this.unfollow?.();
    this.unfollow = null;
  }

  private takePage(page: LogPage): void {
    this.total = page.complete ? page.totalLines : Math.max(this.total, page.totalLines);
    this.totalBytes = page.totalBytes;
    if (page.complete && !this.complete) {
      this.complete = true;
      for (const known of this.pages.values()) known.stale = true;
    }
    this.put(page.firstLine, page.lines, page.ts);
    for (const index of page.cut) {
      const line = page.firstLine + index;
      this.pages.get(Math.floor(line / PAGE_LINES))?.cut.add(line % PAGE_LINES);
    }
  }

  private put(first: number, lines: string[], ts: number[]): void {
    for (let index = 0; index < lines.length; index++) {
      const line = first + index;
      const number = Math.floor(line / PAGE_LINES);
      let page = this.pages.get(number);
      if (!page) {
        page = { lines: [], ts: [], cut: new Set(), stale: false, usedAt: ++this.uses, carry: null };
        this.pages.set(number, page);
      }
      const slot = line % PAGE_LINES;
      if (page.lines[slot] === undefined) this.loadedLines += 1;
      page.lines[slot] = lines[index];
      this.markers.note(line, lines[index] ?? "");
      page.ts[slot] = ts[index];
      page.carry = null;
    }
    this.evict();
  }

  private *wantedPages(): Generator<number> {
    let next = 0;
    for (const [first, last] of this.wanted) {
      // The log may turn out shorter than it was when somebody looked.
      const end = Math.min(last, this.total - 1);
      next = Math.max(next, Math.floor(first / PAGE_LINES));
      for (; next * PAGE_LINES <= end; next++) yield next;
    }
  }

  /** The first line of this page to read for the wanted range, or null when nothing is missing. */
  private missing(number: number): number | null {
    if (this.reading.has(number)) return null;
    const page = this.pages.get(number);
    if (!page || page.stale) return number * PAGE_LINES;
    for (const [first, last] of this.wanted) {
      const to = Math.min(last, this.total - 1, (number + 1) * PAGE_LINES - 1);
      for (let line = Math.max(first, number * PAGE_LINES); line <= to; line++) {
        if (page.lines[line % PAGE_LINES] === undefined) return line;
      }
    }
    return null;
  }

  private pump(): void {
    if (!this.loaded || this.users === 0 || this.error) return;
    while (this.reads < MAX_READS) {
      const numbers: number[] = [];
      let offset: number | null = null;
      for (const number of this.wantedPages()) {
        const missing = this.missing(number);
        const before = numbers.at(-1);
        if (before !== undefined && number !== before + 1) break; // a read is one piece
        if (missing !== null) {
          offset ??= missing;
          if (numbers.push(number) === MAX_PAGES_PER_READ) break;
        } else if (numbers.length > 0) break;
      }
      const last = numbers.at(-1);
      if (offset === null || last === undefined) return;
      void this.read({ offset, limit: (last + 1) * PAGE_LINES - offset }, numbers);
    }
  }

  private async read(range: { offset: number; limit: number }, numbers: number[]): Promise<void> {
    const signal = this.abort.signal;
    this.reads += 1;
    for (const number of numbers) this.reading.add(number);
    try {
      const page = await this.readPage(this.target, range, signal);
      if (signal.aborted) return;
      for (const number of numbers) this.dropStale(number);
      this.takePage(page);
      if (page.lines.length === 0) {
        // Fewer lines than announced. Saying so is better than asking forever.
        this.total = Math.min(this.total, range.offset);
      }
    } catch (error) {
      if (signal.aborted) return;
      this.error = error instanceof Error ? error : new Error(String(error));
    } finally {
      if (!signal.aborted) {
        this.reads -= 1;
        for (const number of numbers) this.reading.delete(number);
        this.changed();
      }
    }
    this.pump();
  }

  private dropStale(number: number): void {
    const page = this.pages.get(number);
    if (!page?.stale) return;
    this.pages.delete(number);
    this.loadedLines -= page.lines.filter((line) => line !== undefined).length;
  }

  private evict(): void {
    if (this.loadedLines <= MAX_LINES_KEPT) return;
    const wanted = new Set(this.wantedPages());
    const last = Math.floor((this.total - 1) / PAGE_LINES);
    const candidates = [...this.pages]
      .filter(([number]) => !wanted.has(number) && number < last - 1)
      .sort(([, a], [, b]) => a.usedAt - b.usedAt);
    for (const [number, page] of candidates) {
      if (this.loadedLines <= MAX_LINES_KEPT * 0.9) return;
      this.pages.delete(number);
      this.loadedLines -= page.lines.filter((line) => line !== undefined).length;
    }
  }

  private changed(): void {
    this.version += 1;
    for (const listener of this.listeners) listener();
  }
}
