import { expect, it } from "vitest";
import { formatAnchor, parseAnchor } from "./anchor";
import { markSpans, toMark } from "./marks";

it("cuts spans at the borders of matches", () => {
  const spans = [{ text: "hello " }, { text: "world", className: "x" }];
  expect(markSpans(spans, [{ start: 4, end: 8 }], { start: 4, end: 8 })).toEqual([
    { text: "hell" },
    { text: "o ", mark: "current" },
    { text: "wo", className: "x", mark: "current" },
    { text: "rld", className: "x" },
  ]);
  expect(markSpans(spans, [], null)).toEqual(spans);
});

it("finds a match of the server's in the line as shown", () => {
  expect(toMark({ start: 2, end: 4 }, "a go")).toEqual({ start: 2, end: 4 });
  expect(toMark({ start: 2, end: 4 }, "\x1b[31ma\x1b[0m go")).toEqual({ start: 2, end: 4 });
  expect(toMark({ start: 2, end: 4 }, "🚀 go")).toEqual({ start: 3, end: 5 });
  expect(toMark({ start: 4, end: 8 }, "10%\r100%")).toEqual({ start: 0, end: 4 });
});

it("reads and writes permalinks", () => {
  expect(parseAnchor("#L42")).toEqual({ step: null, first: 42, last: 42 });
  expect(parseAnchor("L50-L42")).toEqual({ step: null, first: 42, last: 50 });
  expect(parseAnchor("#S3L42")).toEqual({ step: 3, first: 42, last: 42 });
  expect(parseAnchor("#S-1L2")?.step).toBe(-1);
  expect(parseAnchor("#L0")).toBeNull();
  expect(parseAnchor("#section")).toBeNull();
  expect(formatAnchor({ step: null, first: 42, last: 50 })).toBe("L42-L50");
  expect(formatAnchor({ step: 3, first: 42, last: 42 })).toBe("S3L42");
});
