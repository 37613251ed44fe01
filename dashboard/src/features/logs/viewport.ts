/**
 * Where a row is and which row is where, for logs of any length. Pure.
 *
 * Rows have nominal heights, so positions are arithmetic; wrapped lines add what they measured.
 * Browsers cap the height of an element at some 16 million pixels: a longer log gets a shorter
 * scroll bar, on which jumps are proportional while wheel and keys still move by real pixels.
 */

import type { Range } from "./groups";

export const LINE_HEIGHT = 20;
export const HEADER_HEIGHT = 36;
/** Room below the last line. */
export const END_SPACE = 8;
const TALLEST = 15_000_000;

export interface Section {
  key: number;
  header: boolean;
  open: boolean;
  lines: number;
  /** Lines that are not shown: sorted, none touching another. */
  hidden?: readonly Range[];
}

export type Row = { kind: "header"; section: number } | { kind: "line"; section: number; line: number };

interface Placed extends Section {
  firstRow: number;
  top: number;
  /** Lines left over when those hidden are taken away. */
  shown: number;
  /** For each hidden range: how many lines are shown before it. */
  shownBefore: readonly number[];
}

export class Rows {
  readonly count: number;
  /** Height without what wrapped lines add. */
  readonly nominalHeight: number;
  private readonly placed: Placed[];

  constructor(readonly sections: readonly Section[]) {
    let firstRow = 0;
    let top = 0;
    this.placed = sections.map((section) => {
      const shownBefore: number[] = [];
      let hidden = 0;
      for (const [first, last] of section.hidden ?? []) {
        shownBefore.push(first - hidden);
        hidden += last - first + 1;
      }
      const shown = section.lines - hidden;
      const placed = { ...section, firstRow, top, shown, shownBefore };
      const lines = section.open ? shown : 0;
      firstRow += (section.header ? 1 : 0) + lines;
      top += (section.header ? HEADER_HEIGHT : 0) + lines * LINE_HEIGHT;
      return placed;
    });
    this.count = firstRow;
    this.nominalHeight = top;
  }

  at(row: number): Row {
    const index = this.lastSectionWhere((section) => section.firstRow <= row);
    const section = this.placed[index];
    if (!section) throw new RangeError(`no row ${row}`);
    const inside = row - section.firstRow;
    if (section.header && inside === 0) return { kind: "header", section: index };
    return { kind: "line", section: index, line: lineOf(section, inside - (section.header ? 1 : 0)) };
  }

  height(row: number): number {
    return this.at(row).kind === "header" ? HEADER_HEIGHT : LINE_HEIGHT;
  }

  top(row: number): number {
    const section = this.placed[this.lastSectionWhere((each) => each.firstRow <= row)];
    if (!section) return 0;
    const inside = row - section.firstRow;
    if (!section.header) return section.top + inside * LINE_HEIGHT;
    return section.top + (inside === 0 ? 0 : HEADER_HEIGHT + (inside - 1) * LINE_HEIGHT);
  }

  rowOfLine(section: number, line: number): number | null {
    const placed = this.placed[section];
    if (!placed?.open || line < 0 || line >= placed.lines) return null;
    const { shown, hidden } = shownUpTo(placed, line);
    return hidden ? null : placed.firstRow + (placed.header ? 1 : 0) + shown;
  }

  /** The row of this line, or of the last one shown before it. */
  rowNear(section: number, line: number): number | null {
    const placed = this.placed[section];
    if (!placed) return null;
    const header = placed.header ? 1 : 0;
    if (!placed.open) return this.rowOfHeader(section);
    const { shown, hidden } = shownUpTo(placed, Math.min(line, placed.lines - 1));
    const row = placed.firstRow + header + shown - (hidden ? 1 : 0);
    return row < placed.firstRow || row >= this.count ? null : row;
  }

  rowOfHeader(section: number): number | null {
    const placed = this.placed[section];
    return placed?.header ? placed.firstRow : null;
  }

  /** Only a lone section may be without a header, so none is without a row of its own. */
  private lastSectionWhere(test: (section: Placed) => boolean): number {
    let low = 0;
    let high = this.placed.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      const section = this.placed[middle];
      if (section && test(section)) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** How many lines are shown before this one, and whether it is hidden itself. */
function shownUpTo({ hidden = [], shownBefore }: Placed, line: number): { shown: number; hidden: boolean } {
  const index = lastIndex(hidden.length, (each) => (hidden[each]?.[0] ?? 0) <= line);
  const range = hidden[index];
  if (!range) return { shown: line, hidden: false };
  const before = shownBefore[index] ?? 0;
  return line <= range[1]
    ? { shown: before, hidden: true }
    : { shown: before + line - range[1] - 1, hidden: false };
}

/** The line that stands in this place when the hidden ones are left out. */
function lineOf({ hidden = [], shownBefore }: Placed, place: number): number {
  const index = lastIndex(hidden.length, (each) => (shownBefore[each] ?? 0) <= place);
  const range = hidden[index];
  return range ? range[1] + 1 + place - (shownBefore[index] ?? 0) : place;
}

/** The last index that passes, where all before it do; -1 when none does. */
function lastIndex(count: number, test: (index: number) => boolean): number {
  let low = -1;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (test(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Row positions with what wrapped lines add. `extras` maps row → additional pixels. */
export class Layout {
  readonly height: number;
  private readonly extraRows: number[];
  private readonly extraSums: number[];

  constructor(
    readonly rows: Rows,
    private readonly extras: ReadonlyMap<number, number> = new Map(),
  ) {
    this.extraRows = [...extras.keys()].sort((a, b) => a - b);
    let sum = 0;
    this.extraSums = this.extraRows.map((row) => {
      sum += extras.get(row) ?? 0;
      return sum;
    });
    this.height = rows.count === 0 ? 0 : rows.nominalHeight + sum + END_SPACE;
  }

  heightOf(row: number): number {
    return this.rows.height(row) + (this.extras.get(row) ?? 0);
  }

  topOf(row: number): number {
    return this.rows.top(row) + this.extraBefore(row);
  }

  /** The row at this distance from the top. */
  rowAt(px: number): number {
    let low = 0;
    let high = Math.max(0, this.rows.count - 1);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.topOf(middle) <= px) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  private extraBefore(row: number): number {
    let low = 0;
    let high = this.extraRows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.extraRows[middle] ?? 0) < row) low = middle + 1;
      else high = middle;
    }
    return low > 0 ? (this.extraSums[low - 1] ?? 0) : 0;
  }
}

export class ScrollMap {
  /** What the scroll bar thinks the content's height is. */
  readonly barHeight: number;
  private readonly contentRange: number;
  private readonly barRange: number;

  constructor(
    readonly contentHeight: number,
    readonly viewHeight: number,
  ) {
    this.barHeight = Math.min(contentHeight, TALLEST);
    this.contentRange = Math.max(0, contentHeight - viewHeight);
    this.barRange = Math.max(0, this.barHeight - viewHeight);
  }

  get exact(): boolean {
    return this.contentHeight <= TALLEST;
  }

  clamp(top: number): number {
    return Math.min(Math.max(0, top), this.contentRange);
  }

  get end(): number {
    return this.contentRange;
  }

  /** Where the bar must stand for this content position. */
  bar(top: number): number {
    if (this.exact || this.contentRange === 0) return top;
    return (top / this.contentRange) * this.barRange;
  }

  /** The content position after the bar moved from `before` to `now`, with the content at `top`. */
  moved(top: number, before: number, now: number): number {
    if (this.exact) return this.clamp(now);
    if (now <= 0) return 0;
    if (now >= this.barRange - 1) return this.contentRange;
    const delta = now - before;
    if (Math.abs(delta) <= this.viewHeight * 1.5) return this.clamp(top + delta);
    return this.clamp((now / this.barRange) * this.contentRange);
  }
}
