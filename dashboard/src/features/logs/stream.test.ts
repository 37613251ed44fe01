import { describe, expect, it, vi } from "vitest";
import type { LogPage } from "@/shared/api/types";
import type { LogLines } from "@/ws.gen";
import { LogHub } from "./hub";
import { LogStream, PAGE_LINES, type ReadPage } from "./stream";

const TARGET = { orgId: "o", runId: "r", jobId: "j", stepIndex: 0, attempt: 1 };

/** A stored log that answers like the Platform, and remembers what it was asked. */
class Store {
  lines: string[];
  complete = true;
  asked: string[] = [];
  failure: Error | null = null;
  mostLinesAtOnce = 20_000;
  /** Lines that live frames are asked to continue from. */
  followed: (() => number)[] = [];

  constructor(count: number) {
    this.lines = Array.from({ length: count }, (_, index) => `line ${index}`);
  }

  read: ReadPage = async (_target, range): Promise<LogPage> => {
    this.asked.push(JSON.stringify(range));
    if (this.failure) throw this.failure;
    const offset = "tail" in range ? Math.max(0, this.lines.length - range.tail) : range.offset;
    const limit = Math.min("tail" in range ? range.tail : range.limit, this.mostLinesAtOnce);
    const lines = this.lines.slice(offset, offset + limit);
    return {
      lines,
      ts: lines.map((_, index) => offset + index),
      firstLine: offset,
      totalLines: this.lines.length,
      totalBytes: 0,
      complete: this.complete,
      cut: [],
    };
  };

  stream(): LogStream {
    return new LogStream(TARGET, this.read, (_target, lineCount) => {
      this.followed.push(lineCount);
      return () => this.followed.splice(this.followed.indexOf(lineCount), 1);
    });
  }
}

function live(firstLine: number, lines: string[], changes: Partial<LogLines> = {}): LogLines {
  return {
    type: "log.lines",
    runId: "r",
    jobId: "j",
    stepIndex: 0,
    attempt: 1,
    firstLine,
    lines,
    ts: lines.map(() => 0),
    lineCount: firstLine + lines.length,
    openLine: false,
    ...changes,
  };
}

/** Until all answers that are under way have been taken. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
}

describe("a stored log", () => {
  it("is read from its end, then where someone looks", async () => {
    const store = new Store(5000);
    const stream = store.stream();
    stream.acquire();
    await settled();
    expect(stream.total).toBe(5000);
    expect(stream.line(4999)?.text).toBe("line 4999");
    expect(stream.line(10)).toBeNull();
    stream.want([[10, 60]]);
    await settled();
    expect(stream.line(10)).toEqual({ text: "line 10", ts: 10, cut: false });
    expect(store.asked).toEqual([`{"tail":${PAGE_LINES}}`, `{"offset":0,"limit":${PAGE_LINES}}`]);
    stream.want([[20, 70]]);
    await settled();
    expect(store.asked).toHaveLength(2);
  });

  it("is read in pieces where folded lines lie between", async () => {
    const store = new Store(5000);
    const stream = store.stream();
    stream.seed(5000);
    stream.acquire();
    stream.want([
      [0, 1],
      [3002, 3002],
    ]);
    await settled();
    expect(store.asked).toEqual([
      `{"offset":0,"limit":${PAGE_LINES}}`,
      `{"offset":3000,"limit":${PAGE_LINES}}`,
    ]);
    expect(stream.line(3002)?.text).toBe("line 3002");
  });

  it("tells of its groups before it is read, once while it grows and once when it has ended", async () => {
    const store = new Store(5000);
    store.complete = false;
    let searched = 0;
    const stream = new LogStream(
      TARGET,
      store.read,
      () => () => {},
      async () => {
        searched += 1;
        return [{ line: 7, preview: "##[group]Early" }];
      },
    );
    stream.acquire();
    await settled();
    expect(stream.markers.groups()).toEqual([{ first: 7, last: null, title: "Early", depth: 0 }]);
    stream.takeLines(live(5000, ["##[endgroup]"]));
    expect(stream.markers.groups()[0]?.last).toBe(5000);
    store.lines.push("##[endgroup]");
    store.complete = true;
    stream.reopen();
    await settled();
    expect(searched).toBe(2);
    expect(stream.markers.groups()[0]).toEqual({ first: 7, last: 5000, title: "Early", depth: 0 });
  });

  it("whose length is known is not read until looked at", async () => {
    const store = new Store(100);
    const stream = store.stream();
    stream.seed(100);
    stream.acquire();
    await settled();
    expect(store.asked).toEqual([]);
    stream.want([[0, 40]]);
    await settled();
    expect(stream.line(40)?.text).toBe("line 40");
  });

  it("is read for whoever looked before it was acquired", async () => {
    const store = new Store(100);
    const stream = store.stream();
    stream.seed(100);
    stream.want([[0, 40]]);
    stream.acquire();
    await settled();
    expect(stream.line(40)?.text).toBe("line 40");
  });

  it("with answers shorter than asked for is read on from where they ended", async () => {
    const store = new Store(3000);
    store.mostLinesAtOnce = 7;
    const stream = store.stream();
    stream.seed(3000);
    stream.acquire();
    stream.want([[500, 520]]);
    await settled();
    for (let line = 500; line <= 520; line++) expect(stream.line(line)?.text).toBe(`line ${line}`);
  });

  it("that lacks announced lines ends where it ends", async () => {
    const store = new Store(10);
    const stream = store.stream();
    stream.seed(5000);
    stream.acquire();
    stream.want([[4000, 4040]]);
    await settled();
    expect(stream.total).toBeLessThanOrEqual(4000);
    expect(store.asked.length).toBeLessThan(5);
  });

  it("of any length leaves only so much in memory", async () => {
    const store = new Store(1_000_000);
    const stream = store.stream();
    stream.seed(1_000_000);
    stream.acquire();
    for (let first = 0; first < 1_000_000; first += 5000) {
      stream.want([[first, first + 4999]]);
      await settled();
    }
    let held = 0;
    for (let line = 0; line < 1_000_000; line += PAGE_LINES) if (stream.line(line)) held += PAGE_LINES;
    expect(held).toBeLessThanOrEqual(200_000);
    expect(stream.line(999_999)?.text).toBe("line 999999");
  });
});

describe("a growing log", () => {
  it("is joined without loss: overlap is harmless", async () => {
    const store = new Store(3);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    stream.takeLines(live(2, ["line 2", "line 3"])); // arrives before the first answer
    await settled();
    stream.takeLines(live(3, ["line 3", "line 4"]));
    expect(stream.total).toBe(5);
    expect([0, 1, 2, 3, 4].map((line) => stream.line(line)?.text)).toEqual(
      [0, 1, 2, 3, 4].map((line) => `line ${line}`),
    );
  });

  it("asks for its last line again, which may have been open", async () => {
    const store = new Store(3);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    await settled();
    expect(store.followed[0]?.()).toBe(2);
    stream.takeLines(live(2, ["line 2 now whole", "next"]));
    expect(stream.line(2)?.text).toBe("line 2 now whole");
    expect(store.followed[0]?.()).toBe(3);
  });

  it("fills announced holes by reading them", async () => {
    const store = new Store(0);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    await settled();
    store.lines = Array.from({ length: 300 }, (_, index) => `line ${index}`);
    stream.takeGap({
      type: "log.gap",
      runId: "r",
      jobId: "j",
      stepIndex: 0,
      firstLine: 0,
      droppedLineCount: 250,
    });
    stream.takeLines(live(250, store.lines.slice(250)));
    expect(stream.total).toBe(300);
    stream.want([[200, 299]]);
    await settled();
    expect(stream.line(200)?.text).toBe("line 200");
  });

  it("ignores lines of another attempt", async () => {
    const store = new Store(1);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    await settled();
    stream.takeLines(live(1, ["old"], { attempt: 7 }));
    expect(stream.total).toBe(1);
  });

  it("is read once more when it has ended, and equals what is stored", async () => {
    const store = new Store(2);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    await settled();
    stream.takeLines(live(2, ["as streamed"]));
    store.lines[2] = "as stored";
    store.complete = true;
    stream.takeEnd({
      type: "log.stream.terminated",
      runId: "r",
      jobId: "j",
      stepIndex: 0,
      reason: "complete",
    });
    await settled();
    stream.want([[0, 2]]);
    await settled();
    expect(stream.complete).toBe(true);
    expect(stream.line(2)?.text).toBe("as stored");
    expect(store.followed).toEqual([]);
  });

  it.each(["orchestrator_away", "not_found"] as const)("is followed anew after %s", async (reason) => {
    vi.useFakeTimers();
    const store = new Store(1);
    store.complete = false;
    const stream = store.stream();
    stream.acquire();
    await settled();
    stream.takeEnd({ type: "log.stream.terminated", runId: "r", jobId: "j", stepIndex: 0, reason });
    expect(store.followed).toHaveLength(0);
    if (reason === "orchestrator_away") {
      expect(stream.error).not.toBeNull();
      stream.reopen();
    } else vi.runAllTimers();
    await settled();
    expect(stream.error).toBeNull();
    expect(store.followed).toHaveLength(1);
    vi.useRealTimers();
  });

  it("stops being followed when nobody looks, and goes on when somebody does", async () => {
    const store = new Store(1);
    store.complete = false;
    const stream = store.stream();
    const release = stream.acquire();
    await settled();
    expect(store.followed).toHaveLength(1);
    release();
    expect(store.followed).toHaveLength(0);
    stream.acquire();
    await settled();
    expect(store.followed).toHaveLength(1);
  });
});

it("a log that could not be read is read when the orchestrator is back", async () => {
  const store = new Store(5);
  store.failure = new Error("away");
  const hub = new LogHub(store.read, () => () => {});
  const stream = hub.stream(TARGET);
  stream.acquire();
  await settled();
  expect(stream.error?.message).toBe("away");
  store.failure = null;
  hub.orchestratorReturned();
  await settled();
  expect(stream.error).toBeNull();
  expect(stream.total).toBe(5);
});
