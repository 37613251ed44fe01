/**
 * Groups in a log: what stands between `##[group]title` and `##[endgroup]`, foldable, one in another.
 *
 * Markers are known from lines that were read or came live, and from a search over lines that nobody has
 * read yet. A line's number is its identity, so hearing of a marker twice is harmless. Pure.
 */

const BEGIN = "##[group]";
const END = "##[endgroup]";

/** For the server's search (RE2), which ignores case unless told otherwise. */
export const MARKER_PATTERN = "(?-i:^##\\[(?:end)?group\\])";

export function isMarker(text: string): boolean {
  return text.charCodeAt(0) === 35 && (text.startsWith(BEGIN) || text.startsWith(END));
}

export interface LineGroup {
  /** The line of its marker. */
  first: number;
  /** The line that ends it, or null: it still goes on, or nothing ended it. */
  last: number | null;
  title: string;
  depth: number;
}

/** How far what a marker shows is shifted against the line as it was written. */
export const TITLE_OFFSET = BEGIN.length;

export class Markers {
  /** Grows with every change, so that others know when to look again. */
  version = 0;
  private readonly byLine = new Map<number, string | null>(); // title, or null for an end
  private built: { version: number; groups: readonly LineGroup[] } | null = null;

  get size(): number {
    return this.byLine.size;
  }

  /** What this line says, whether it is a marker or was one. */
  note(line: number, text: string): void {
    if (isMarker(text)) {
      const title = text.startsWith(BEGIN) ? text.slice(BEGIN.length).replace(/\r$/, "").trim() : null;
      if (this.byLine.get(line) === title && this.byLine.has(line)) return;
      this.byLine.set(line, title);
      this.version += 1;
    } else if (this.byLine.size > 0 && this.byLine.delete(line)) this.version += 1;
  }

  /** In order of their beginning. */
  groups(): readonly LineGroup[] {
    if (this.built?.version !== this.version) this.built = { version: this.version, groups: this.build() };
    return this.built.groups;
  }

  isEnd(line: number): boolean {
    return this.byLine.get(line) === null;
  }

  /** Lines that only end a group: they are never shown. */
  ends(): number[] {
    return [...this.byLine].filter(([, title]) => title === null).map(([line]) => line);
  }

  private build(): LineGroup[] {
    const groups: LineGroup[] = [];
    const open: LineGroup[] = [];
    for (const [line, title] of [...this.byLine].sort(([a], [b]) => a - b)) {
      if (title === null) {
        const group = open.pop();
        if (group) group.last = line;
        continue;
      }
      const group = { first: line, last: null, title, depth: open.length };
      groups.push(group);
      open.push(group);
    }
    return groups;
  }
}

/** A range of lines that are not shown, ends included. */
export type Range = readonly [first: number, last: number];

/** What folded groups hide, and the lines that end groups; sorted, none touching another. */
export function hiddenLines(
  markers: Markers,
  isOpen: (group: LineGroup) => boolean,
  total: number,
): readonly Range[] {
  const ranges: [number, number][] = markers.ends().map((line) => [line, line]);
  for (const group of markers.groups()) {
    if (isOpen(group)) continue;
    const last = group.last ?? total - 1;
    if (last > group.first) ranges.push([group.first + 1, last]);
  }
  ranges.sort((a, b) => a[0] - b[0]);
  const merged: [number, number][] = [];
  for (const range of ranges) {
    const before = merged.at(-1);
    if (before && range[0] <= before[1] + 1) before[1] = Math.max(before[1], range[1]);
    else merged.push([...range]);
  }
  return merged
    .filter(([first]) => first < total)
    .map(([first, last]) => [first, Math.min(last, total - 1)]);
}

/** Groups around this line, the outermost first. The line of a marker is inside those around its group. */
export function around(groups: readonly LineGroup[], line: number): LineGroup[] {
  const found: LineGroup[] = [];
  // Groups nest, so those that begin before the line and have not ended are all around it.
  for (let index = lastBefore(groups, line); index >= 0; index--) {
    const group = groups[index];
    if (!group) break;
    if (group.last === null || group.last >= line) found.unshift(group);
    if (group.depth === 0) break;
  }
  return found;
}

export function groupAt(groups: readonly LineGroup[], line: number): LineGroup | null {
  const group = groups[lastBefore(groups, line + 1)];
  return group?.first === line ? group : null;
}

/** The last group that begins before this line, or -1. */
function lastBefore(groups: readonly LineGroup[], line: number): number {
  let low = -1;
  let high = groups.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((groups[middle]?.first ?? 0) < line) low = middle;
    else high = middle - 1;
  }
  return low;
}
