/** Search matches inside a line, and spans cut at their borders. Pure. */
import type { LogMatch } from "@/shared/api/types";
import { plainText, type Span, stripAnsi } from "./ansi";

/** UTF-16 offsets into the visible text of a line. */
export interface Mark {
  start: number;
  end: number;
}

export interface MarkedSpan extends Span {
  mark?: "match" | "current";
}

/**
 * Where a match lies in the line as it is shown. The server counts characters of the whole line;
 * JavaScript counts UTF-16 units, which differ beyond the BMP, and of a progress line only its last
 * state is shown.
 */
export function toMark({ start, end }: Pick<LogMatch, "start" | "end">, raw: string): Mark {
  const whole = stripAnsi(raw);
  const hidden = Math.max(0, whole.lastIndexOf(plainText(raw)));
  if (!/[\ud800-\udfff]/.test(whole)) return { start: start - hidden, end: end - hidden };
  const characters = [...whole];
  const units = (count: number) => characters.slice(0, count).join("").length;
  return { start: units(start) - hidden, end: units(end) - hidden };
}

export function markSpans(
  spans: readonly Span[],
  marks: readonly Mark[],
  current: Mark | null,
): MarkedSpan[] {
  const result: MarkedSpan[] = [];
  let at = 0;
  for (const span of spans) {
    const end = at + span.text.length;
    let from = at;
    for (const mark of marks) {
      const start = Math.max(mark.start, from);
      const stop = Math.min(mark.end, end);
      if (start >= stop) continue;
      if (start > from) result.push({ ...span, text: span.text.slice(from - at, start - at) });
      const isCurrent = current !== null && current.start === mark.start && current.end === mark.end;
      result.push({
        ...span,
        text: span.text.slice(start - at, stop - at),
        mark: isCurrent ? "current" : "match",
      });
      from = stop;
    }
    if (from < end) result.push({ ...span, text: span.text.slice(from - at) });
    at = end;
  }
  return result;
}
