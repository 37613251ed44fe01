/**
 * The browser's WebSocket to the Platform: one per page, always trying to be connected.
 *
 * It promises: after `status.subscribed`, every later event of the org arrives once and in order, or
 * `resync` says that some did not. Log streams named by `followLog` are asked for again after every
 * reconnect, from the line that the caller has by then.
 */
import { basePath } from "@/shared/base-path";
import type { FromBrowser, LogSubscribe, ToBrowser } from "@/ws.gen";

export type LiveState = "connecting" | "open" | "closed" | "signed-out";

export interface LogTarget {
  orgId: string;
  runId: string;
  jobId: string;
  stepIndex: number;
}

type Timer = ReturnType<typeof setTimeout>;

const PING_EVERY_MS = 25_000;
const SILENCE_LIMIT_MS = 10_000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
const SESSION_ENDED = 4001;

export class LiveSocket {
  private socket: WebSocket | null = null;
  private authenticated = false;
  private attempts = 0;
  private retry: Timer | undefined;
  private pinger: Timer | undefined;
  private silence: Timer | undefined;
  private flush: (() => void) | null = null;
  private queue: ToBrowser[] = [];
  private orgId: string | null = null;
  private readonly lastSeq = new Map<string, number>();
  private readonly logs = new Map<string, { target: LogTarget; lineCount: () => number }>();
  private readonly listeners = new Set<() => void>();
  private current: LiveState = "closed";
  /** When the connection was lost; null while it is up. */
  downSinceMs: number | null = Date.now();

  constructor(private readonly onFrames: (frames: ToBrowser[]) => void) {
    window.addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
  }

  get state(): LiveState {
    return this.current;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  getState = (): LiveState => this.current;

  connect(): void {
    clearTimeout(this.retry);
    if (this.socket) return;
    this.enter("connecting");
    const url = `${location.origin.replace(/^http/, "ws")}${basePath}/ws/dashboard`;
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onmessage = (message) => this.receive(String(message.data));
    socket.onclose = (event) => this.lost(socket, event.code);
  }

  /** Stops for good, e.g. on sign-out. */
  disconnect(): void {
    this.orgId = null;
    this.lastSeq.clear();
    clearTimeout(this.retry);
    const socket = this.socket;
    this.socket = null;
    this.stopTimers();
    socket?.close();
    this.enter("closed");
  }

  watchOrg(orgId: string): void {
    if (this.orgId === orgId) return;
    if (this.orgId && this.authenticated) this.send({ type: "status.unsubscribe", orgId: this.orgId });
    this.orgId = orgId;
    if (this.authenticated) this.subscribeOrg();
  }

  /** Live lines of one stream from `lineCount()` on, until the returned function is called. */
  followLog(target: LogTarget, lineCount: () => number): () => void {
    const key = `${target.jobId}:${target.stepIndex}`;
    const entry = { target, lineCount };
    this.logs.set(key, entry);
    if (this.authenticated) this.subscribeLog(entry);
    return () => {
      if (this.logs.get(key) !== entry) return;
      this.logs.delete(key);
      if (this.authenticated) {
        this.send({ type: "log.unsubscribe", jobId: target.jobId, stepIndex: target.stepIndex });
      }
    };
  }

  private wake = (): void => {
    if (this.current !== "closed" || document.hidden || !this.retry) return;
    this.attempts = 0;
    this.connect();
  };

  private receive(text: string): void {
    this.heard();
    const frame = JSON.parse(text) as ToBrowser;
    switch (frame.type) {
      case "auth.success":
        this.authenticated = true;
        this.attempts = 0;
        this.downSinceMs = null;
        this.enter("open");
        this.subscribeOrg();
        for (const entry of this.logs.values()) this.subscribeLog(entry);
        break;
      case "auth.failure":
        this.endSession();
        return;
      case "pong":
        return;
      case "run.changed":
      case "orchestrator.status":
      case "resync":
        this.lastSeq.set(frame.orgId, frame.seq);
        break;
      case "status.subscribed": {
        const known = this.lastSeq.get(frame.orgId);
        if (known === undefined || frame.seq < known) this.lastSeq.set(frame.orgId, frame.seq);
        break;
      }
    }
    this.queue.push(frame);
    this.flush ??= this.schedule();
  }

  /** Frames are handed on once per painted frame; in a hidden tab, four times a second. */
  private schedule(): () => void {
    const deliver = () => {
      this.flush = null;
      const frames = this.queue;
      this.queue = [];
      this.onFrames(frames);
    };
    if (document.hidden) setTimeout(deliver, 250);
    else requestAnimationFrame(deliver);
    return deliver;
  }

  private subscribeOrg(): void {
    if (!this.orgId) return;
    const sinceSeq = this.lastSeq.get(this.orgId) ?? null;
    this.send({ type: "status.subscribe", orgId: this.orgId, sinceSeq });
  }

  private subscribeLog({ target, lineCount }: { target: LogTarget; lineCount: () => number }): void {
    const frame: LogSubscribe = { type: "log.subscribe", ...target, afterLineCount: lineCount() };
    this.send(frame);
  }

  private send(frame: FromBrowser): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  private heard(): void {
    clearTimeout(this.silence);
    this.silence = undefined;
    this.pinger ??= setTimeout(() => {
      this.pinger = undefined;
      this.send({ type: "ping" });
      this.silence = setTimeout(() => this.socket?.close(), SILENCE_LIMIT_MS);
    }, PING_EVERY_MS);
  }

  private lost(socket: WebSocket, code: number): void {
    if (socket !== this.socket) return;
    this.socket = null;
    this.stopTimers();
    if (code === SESSION_ENDED) {
      this.endSession();
      return;
    }
    const delay = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.attempts) * (0.75 + Math.random() / 2);
    this.attempts += 1;
    this.downSinceMs ??= Date.now();
    this.retry = setTimeout(() => this.connect(), delay);
    this.enter("closed");
  }

  private endSession(): void {
    this.disconnect();
    this.enter("signed-out");
  }

  private stopTimers(): void {
    clearTimeout(this.pinger);
    clearTimeout(this.silence);
    this.pinger = undefined;
    this.silence = undefined;
    this.authenticated = false;
  }

  private enter(state: LiveState): void {
    if (state === "closed") this.downSinceMs ??= Date.now();
    if (state === this.current) return;
    this.current = state;
    for (const listener of this.listeners) listener();
  }
}
