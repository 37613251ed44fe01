import { describe, expect, it } from "vitest";
import { around, groupAt, hiddenLines, Markers } from "./groups";

function markers(lines: string[]): Markers {
  const found = new Markers();
  for (const [line, text] of lines.entries()) found.note(line, text);
  return found;
}

const LINES = [
  "before", // 0
  "##[group]Install", // 1
  "a", // 2
  "##[group]Mirror", // 3
  "b", // 4
  "##[endgroup]", // 5
  "c", // 6
  "##[endgroup]", // 7
  "between", // 8
  "##[group]Still going", // 9
  "d", // 10
];

describe("groups of lines", () => {
  const found = markers(LINES);

  it("nest, and the last may still go on", () => {
    expect(found.groups()).toEqual([
      { first: 1, last: 7, title: "Install", depth: 0 },
      { first: 3, last: 5, title: "Mirror", depth: 1 },
      { first: 9, last: null, title: "Still going", depth: 0 },
    ]);
  });

  it("hide their lines when folded, and the markers of their ends always", () => {
    const hidden = (...open: number[]) =>
      hiddenLines(found, (group) => open.includes(group.first), LINES.length);
    expect(hidden(1, 3, 9)).toEqual([
      [5, 5],
      [7, 7],
    ]);
    expect(hidden(1, 9)).toEqual([
      [4, 5],
      [7, 7],
    ]);
    expect(hidden(3)).toEqual([
      [2, 7],
      [10, 10],
    ]);
  });

  it("are found by a line inside", () => {
    const titles = (line: number) => around(found.groups(), line).map((group) => group.title);
    expect(titles(0)).toEqual([]);
    expect(titles(4)).toEqual(["Install", "Mirror"]);
    expect(titles(3)).toEqual(["Install"]);
    expect(titles(6)).toEqual(["Install"]);
    expect(titles(8)).toEqual([]);
    expect(titles(10)).toEqual(["Still going"]);
    expect(groupAt(found.groups(), 3)?.title).toBe("Mirror");
    expect(groupAt(found.groups(), 4)).toBeNull();
  });

  it("may be told in any order and more than once", () => {
    const other = new Markers();
    for (const line of [7, 3, 5, 1, 9, 3, 0]) other.note(line, LINES[line] ?? "");
    expect(other.groups()).toEqual(found.groups());
    const { version } = other;
    other.note(3, LINES[3] ?? "");
    other.note(6, "c");
    expect(other.version).toBe(version);
    other.note(9, "no marker after all");
    expect(other.groups()).toHaveLength(2);
  });

  it("take no harm from an end without a beginning", () => {
    const odd = markers(["##[endgroup]", "x", "##[group]y", "z", "##[endgroup]"]);
    expect(odd.groups().map((group) => group.title)).toEqual(["y"]);
    expect(hiddenLines(odd, () => true, 5)).toEqual([
      [0, 0],
      [4, 4],
    ]);
  });
});
