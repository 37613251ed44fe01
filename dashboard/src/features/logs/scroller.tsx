/**
 * The scrolling surface of a log. Rows lie in a layer that sticks to the view and is drawn anew for
 * each scroll position in the same frame, so it never shows a blank, however fast one scrolls.
 */
import {
  type CSSProperties,
  type ReactNode,
  type Ref,
  useCallback,
  useEffect,
  useImperativeHandle,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from "react";
import { flushSync } from "react-dom";
import classes from "./logs.module.css";
import { Layout, type Rows, ScrollMap } from "./viewport";

const OVERSCAN = 4;
const RESYNC_MS = 200;

export interface ScrollerHandle {
  scrollToRow(row: number, place: "center" | "start" | "nearest"): void;
  scrollToEnd(): void;
  focus(): void;
}

interface ScrollerProps {
  rows: Rows;
  wrap: boolean;
  /** Stays at the end as rows come. */
  follow: boolean;
  onFollow: (follow: boolean) => void;
  renderRow: (row: number) => ReactNode;
  /** Identity of a row for React and for its measured height; stable while others come and go. */
  rowKey: (row: number) => string;
  /** What is on screen, after every paint that changed it. */
  onRange: (first: number, last: number) => void;
  /** Sticks to the top, drawn for the first visible row. */
  renderSticky?: (firstRow: number) => ReactNode;
  label: string;
  handle: Ref<ScrollerHandle>;
}

export function LogScroller({
  rows,
  wrap,
  follow,
  onFollow,
  renderRow,
  rowKey,
  onRange,
  renderSticky,
  label,
  handle,
}: ScrollerProps) {
  const surface = useRef<HTMLElement>(null);
  const layer = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ width: 0, height: 600 });
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const top = useRef(0);
  const bar = useRef(0);
  const widest = useRef(0);
  const resync = useRef<ReturnType<typeof setTimeout>>(undefined);
  const extras = useRef(new Map<string, number>());
  const [measures, measured] = useReducer((count: number) => count + 1, 0);

  // Wrapped heights hold for one width only.
  const heightsFor = useRef("");
  const epoch = `${wrap}:${size.width}`;
  if (heightsFor.current !== epoch) {
    heightsFor.current = epoch;
    extras.current.clear();
  }

  // biome-ignore lint/correctness/useExhaustiveDependencies: extras are a ref; `measures` counts their changes
  const layout = useMemo(() => {
    if (!wrap || extras.current.size === 0) return new Layout(rows);
    const byRow = new Map<number, number>();
    for (const [key, extra] of extras.current) {
      const row = rowOfKey(key, rows);
      if (row !== null) byRow.set(row, extra);
    }
    return new Layout(rows, byRow);
  }, [rows, wrap, measures, epoch]);

  // Rows come and go above what is being read, as groups fold and steps grow: it stays where it is.
  const reading = useRef<{ rows: Rows; key: string; offset: number } | null>(null);
  if (!follow && reading.current && reading.current.rows !== rows) {
    const row = rowOfKey(reading.current.key, rows, true);
    if (row !== null) top.current = layout.topOf(row) + reading.current.offset;
  }

  const map = useMemo(() => new ScrollMap(layout.height, size.height), [layout, size.height]);
  top.current = follow ? map.end : map.clamp(top.current);

  const first = rows.count > 0 ? layout.rowAt(top.current) : 0;
  const offset = rows.count > 0 ? top.current - layout.topOf(first) : 0;
  reading.current = rows.count > 0 ? { rows, key: rowKey(first), offset } : null;
  let last = first;
  for (let filled = layout.rows.count > 0 ? layout.heightOf(first) - offset : 0; last < rows.count - 1; ) {
    if (filled >= size.height) break;
    last += 1;
    filled += layout.heightOf(last);
  }
  const end = Math.min(rows.count - 1, last + OVERSCAN);

  useLayoutEffect(() => {
    const element = surface.current;
    if (!element) return;
    const observer = new ResizeObserver(([entry]) => {
      if (entry) setSize({ width: element.clientWidth, height: element.clientHeight });
    });
    observer.observe(element);
    setSize({ width: element.clientWidth, height: element.clientHeight });
    return () => observer.disconnect();
  }, []);

  // What the rows really took, before anything is painted.
  const anchor = useRef(first);
  useLayoutEffect(() => {
    if (!wrap || !layer.current) {
      anchor.current = first;
      return;
    }
    let shift = 0;
    let changed = false;
    for (const element of layer.current.querySelectorAll<HTMLElement>("[data-row]")) {
      const row = Number(element.dataset.row);
      const key = element.dataset.key;
      if (!key || row >= rows.count) continue;
      const extra = element.offsetHeight - rows.height(row);
      const known = extras.current.get(key) ?? 0;
      if (extra === known) continue;
      changed = true;
      if (extra === 0) extras.current.delete(key);
      else extras.current.set(key, extra);
      // Rows that came in above what was being read push it down: scroll along.
      if (row < anchor.current) shift += extra - known;
    }
    if (changed) {
      top.current += shift;
      measured();
    } else anchor.current = first;
  });

  useLayoutEffect(() => {
    const element = surface.current;
    if (!element) return;
    const wanted = map.bar(top.current);
    if (map.exact || follow) {
      if (Math.abs(element.scrollTop - wanted) > 0.5) element.scrollTop = wanted;
      bar.current = element.scrollTop;
    }
  });

  // Lines keep the width of the widest one seen, so that the horizontal bar does not jump.
  useLayoutEffect(() => {
    if (wrap || !layer.current) return;
    const width = layer.current.scrollWidth;
    if (width > widest.current) {
      widest.current = width;
      layer.current.style.minWidth = `${width}px`;
    }
  });
  useLayoutEffect(() => {
    if (!layer.current) return;
    widest.current = 0;
    layer.current.style.minWidth = wrap ? "" : "100%";
  }, [wrap]);

  useEffect(() => {
    if (rows.count > 0) onRange(first, end);
  }, [first, end, rows, onRange]);

  const settle = useCallback(() => {
    const element = surface.current;
    if (!element || map.exact) return;
    element.scrollTop = map.bar(top.current);
    bar.current = element.scrollTop;
  }, [map]);

  const moveTo = useCallback(
    (next: number) => {
      top.current = map.clamp(next);
      const element = surface.current;
      if (element) {
        element.scrollTop = map.bar(top.current);
        bar.current = element.scrollTop;
      }
      redraw();
    },
    [map],
  );

  const onScroll = () => {
    const element = surface.current;
    if (!element) return;
    const now = element.scrollTop;
    const before = bar.current;
    if (Math.abs(now - before) < 0.5) return; // our own doing, or sideways
    bar.current = now;
    const next = map.moved(top.current, before, now);
    const atEnd = next >= map.end - 2;
    top.current = next;
    flushSync(() => {
      redraw();
      if (now < before && follow && !atEnd) onFollow(false);
      else if (!follow && atEnd && now > before) onFollow(true);
    });
    clearTimeout(resync.current);
    resync.current = setTimeout(settle, RESYNC_MS);
  };

  useImperativeHandle(
    handle,
    () => ({
      scrollToRow(row, place) {
        const rowTop = layout.topOf(row);
        const height = layout.heightOf(row);
        if (
          place === "nearest" &&
          rowTop >= top.current + 40 &&
          rowTop + height <= top.current + size.height - 20
        )
          return;
        onFollow(false);
        moveTo(place === "start" ? rowTop : rowTop - (size.height - height) / 2);
      },
      scrollToEnd() {
        onFollow(true);
        moveTo(map.end);
      },
      focus() {
        surface.current?.focus({ preventScroll: true });
      },
    }),
    [layout, map, size.height, moveTo, onFollow],
  );

  const drawn: ReactNode[] = [];
  for (let row = first; row <= end && rows.count > 0; row++) {
    const key = rowKey(row);
    drawn.push(
      <div key={key} data-row={row} data-key={key} className={classes.row}>
        {renderRow(row)}
      </div>,
    );
  }

  return (
    <section
      ref={surface}
      className={classes.surface}
      data-wrap={wrap || undefined}
      data-testid="log-surface"
      data-lines={rows.count}
      onScroll={onScroll}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard
      tabIndex={0}
      aria-label={label}
    >
      <div
        className={classes.bar}
        style={{ height: map.barHeight, "--view-width": `${size.width}px` } as CSSProperties}
      >
        <div ref={layer} className={classes.layer} style={{ height: Math.min(size.height, map.barHeight) }}>
          {renderSticky?.(first)}
          <div style={{ transform: `translateY(${-offset}px)` }}>{drawn}</div>
        </div>
      </div>
    </section>
  );
}

/** Keys are `section:line` or `section:h`, by the section's own key. `near`: the row before, where it is hidden. */
function rowOfKey(key: string, rows: Rows, near = false): number | null {
  const [sectionKey, line] = key.split(":");
  const section = rows.sections.findIndex((each) => each.key === Number(sectionKey));
  if (section < 0) return null;
  if (line === "h") return rows.rowOfHeader(section);
  return near ? rows.rowNear(section, Number(line)) : rows.rowOfLine(section, Number(line));
}
