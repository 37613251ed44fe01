import { describe, expect, it } from "vitest";
import { END_SPACE, HEADER_HEIGHT, Layout, LINE_HEIGHT, Rows, ScrollMap, type Section } from "./viewport";

const section = (key: number, lines: number, changes: Partial<Section> = {}): Section => ({
  key,
  header: true,
  open: true,
  lines,
  ...changes,
});

describe("rows of several steps", () => {
  const rows = new Rows([section(0, 3), section(1, 0), section(2, 2, { open: false }), section(5, 4)]);

  it("are headers and lines in order", () => {
    expect(rows.count).toBe(4 + 1 + 1 + 5);
    expect(Array.from({ length: rows.count }, (_, row) => rows.at(row)).map((row) => row.kind[0])).toEqual([
      ..."hlllhhhllll",
    ]);
    expect(rows.at(7)).toEqual({ kind: "line", section: 3, line: 0 });
  });

  it("know where they are", () => {
    let top = 0;
    for (let row = 0; row < rows.count; row++) {
      expect(rows.top(row)).toBe(top);
      top += rows.height(row);
    }
    expect(rows.nominalHeight).toBe(top);
    expect(rows.nominalHeight).toBe(4 * HEADER_HEIGHT + 7 * LINE_HEIGHT);
  });

  it("are found by line", () => {
    expect(rows.rowOfLine(0, 2)).toBe(3);
    expect(rows.rowOfLine(3, 3)).toBe(10);
    expect(rows.rowOfLine(2, 0)).toBeNull();
    expect(rows.rowOfHeader(3)).toBe(6);
  });
});

describe("rows of a log with folded lines", () => {
  const rows = new Rows([
    section(0, 10, {
      hidden: [
        [2, 4],
        [6, 6],
      ],
    }),
    section(1, 2),
  ]);

  it("leave the hidden lines out and keep the numbers of the others", () => {
    const shown = Array.from({ length: rows.count }, (_, row) => rows.at(row));
    expect(shown.flatMap((row) => (row.kind === "line" && row.section === 0 ? [row.line] : []))).toEqual([
      0, 1, 5, 7, 8, 9,
    ]);
    expect(rows.count).toBe(1 + 6 + 1 + 2);
    expect(rows.nominalHeight).toBe(2 * HEADER_HEIGHT + 8 * LINE_HEIGHT);
    expect(rows.top(8)).toBe(2 * HEADER_HEIGHT + 6 * LINE_HEIGHT);
  });

  it("find a line, or what stands in its place", () => {
    for (const line of [0, 1, 5, 7, 8, 9]) {
      const row = rows.rowOfLine(0, line);
      expect(row === null ? null : rows.at(row)).toEqual({ kind: "line", section: 0, line });
    }
    expect(rows.rowOfLine(0, 3)).toBeNull();
    expect(rows.rowNear(0, 3)).toBe(rows.rowOfLine(0, 1));
    expect(rows.rowNear(0, 6)).toBe(rows.rowOfLine(0, 5));
    expect(rows.rowNear(0, 7)).toBe(rows.rowOfLine(0, 7));
  });

  it("stay quick when there are very many", () => {
    const hidden = Array.from(
      { length: 10_000 },
      (_, index) => [index * 100 + 1, index * 100 + 90] as const,
    );
    const long = new Rows([section(0, 1_000_000, { header: false, hidden })]);
    expect(long.count).toBe(100_000);
    expect(long.rowOfLine(0, 999_999)).toBe(99_999);
    expect(long.at(50_000)).toEqual({ kind: "line", section: 0, line: 500_000 });
  });
});

describe("positions", () => {
  const rows = new Rows([section(0, 1000, { header: false })]);

  it("are arithmetic without wrapped lines", () => {
    const layout = new Layout(rows);
    expect(layout.height).toBe(1000 * LINE_HEIGHT + END_SPACE);
    expect(layout.rowAt(0)).toBe(0);
    expect(layout.rowAt(LINE_HEIGHT * 500 + 3)).toBe(500);
    expect(layout.rowAt(1e9)).toBe(999);
  });

  it("count what wrapped lines add", () => {
    const layout = new Layout(rows, new Map([[10, 40]]));
    expect(layout.topOf(10)).toBe(200);
    expect(layout.topOf(11)).toBe(260);
    expect(layout.heightOf(10)).toBe(60);
    expect(layout.rowAt(255)).toBe(10);
    expect(layout.rowAt(260)).toBe(11);
  });
});

describe("the scroll bar", () => {
  it("is the content's own for logs that fit a browser", () => {
    const map = new ScrollMap(100_000, 500);
    expect(map.exact).toBe(true);
    expect(map.moved(0, 0, 4321)).toBe(4321);
    expect(map.end).toBe(99_500);
  });

  it("stands for more than it is tall in longer ones", () => {
    const map = new ScrollMap(200_000_000, 500); // ten million lines
    expect(map.exact).toBe(false);
    expect(map.barHeight).toBeLessThan(16_000_000);
    // A wheel's step moves by real pixels, a jump by proportion, and both ends are the ends.
    expect(map.moved(1000, 75, 175)).toBe(1100);
    const middle = (map.barHeight - 500) / 2;
    expect(map.moved(0, 0, middle)).toBeCloseTo(map.end / 2, 0);
    expect(map.moved(5000, 10, 0)).toBe(0);
    expect(map.moved(5000, 10, map.barHeight - 500)).toBe(map.end);
    expect(map.bar(map.end)).toBe(map.barHeight - 500);
  });
});
