import { describe, expect, it } from "vitest";
import {
  formatAbsolute,
  formatBytes,
  formatDuration,
  formatLogTime,
  formatRelative,
  formatTicking,
  formatUntil,
  plural,
  shortRef,
} from "./format";

describe("durations", () => {
  it.each([
    [0, "0ms"],
    [850, "850ms"],
    [1500, "1.5s"],
    [9990, "10.0s"],
    [42_000, "42s"],
    [150_000, "2m 30s"],
    [3_725_000, "1h 2m"],
    [93_600_000, "1d 2h"],
    [-5, "0s"],
  ])("%i ms is %s", (ms, text) => expect(formatDuration(ms)).toBe(text));

  it("ticks in whole seconds", () => {
    expect(formatTicking(1999)).toBe("1s");
    expect(formatTicking(-20)).toBe("0s");
  });
});

describe("times", () => {
  const at = Date.UTC(2030, 2, 1, 14, 5, 9, 42);

  it.each([
    [1, "just now"],
    [42, "42 seconds ago"],
    [60, "1 minute ago"],
    [300, "5 minutes ago"],
    [7200, "2 hours ago"],
    [86_400, "1 day ago"],
    [90 * 86_400, "3 months ago"],
  ])("%i seconds later it is %s", (seconds, text) =>
    expect(formatRelative(at, at + seconds * 1000)).toBe(text),
  );

  it("names its zone", () => expect(formatAbsolute(at, "utc")).toBe("2030-03-01 14:05:09 UTC"));
  it("shows milliseconds in logs", () => expect(formatLogTime(at, "utc")).toBe("14:05:09.042"));
});

it("names sizes, counts and refs as people do", () => {
  expect(formatBytes(900)).toBe("900 B");
  expect(formatBytes(1536)).toBe("1.5 KiB");
  expect(formatBytes(50 * 1024 * 1024)).toBe("50 MiB");
  expect(plural(1, "line")).toBe("1 line");
  expect(plural(12_345, "line")).toBe("12,345 lines");
  expect(shortRef("refs/heads/feat/x")).toBe("feat/x");
});

describe("what is to come", () => {
  it("is told coarsely, and what is due is now", () => {
    const now = Date.UTC(2030, 0, 1);
    const after = (seconds: number) => formatUntil(now + seconds * 1000, now);
    expect([-5, 0, 1, 59, 60, 7300, 200_000].map(after)).toEqual([
      "now",
      "now",
      "in 1 second",
      "in 59 seconds",
      "in 1 minute",
      "in 2 hours",
      "in 2 days",
    ]);
  });
});
