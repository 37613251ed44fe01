/** Which groups of the shown logs are folded. */
import { useMemo, useRef, useState } from "react";
import type { StepProjection } from "@/shared/api/types";
import { isActive } from "@/shared/status";
import { around, hiddenLines, type LineGroup, type Range } from "./groups";
import type { LogStream } from "./stream";

export interface Folding {
  /** Changes whenever `hidden` does. */
  shape: string;
  /** For each stream; see Section. */
  hidden: readonly (readonly Range[])[];
  isOpen: (section: number, group: LineGroup) => boolean;
  toggle: (section: number, group: LineGroup) => void;
  /** Opens every group around a line; false when all were open. */
  expose: (section: number, line: number) => boolean;
  /** Whether all are folded; null where there are none. */
  folded: boolean | null;
  fold: (folded: boolean) => void;
}

/** Lines that somebody asked for by number: groups around them begin open. */
export interface Wanted {
  section: number;
  first: number;
  last: number;
}

/**
 * Groups begin folded, except those that still go on, what somebody asked for, and the last one of a step that
 * failed. One that was open while it was written stays open when it ends.
 */
export function useFolding(
  steps: readonly StepProjection[],
  streams: readonly LogStream[],
  wanted: Wanted | null,
): Folding {
  const [chosen, setChosen] = useState<ReadonlyMap<string, boolean>>(() => new Map());
  const seenGrowing = useRef(new Set<string>());
  const keyOf = (section: number, group: LineGroup) => `${steps[section]?.stepIndex}:${group.first}`;

  const begins = (section: number, group: LineGroup): boolean => {
    const step = steps[section];
    const key = keyOf(section, group);
    if (group.last === null) {
      if (step && isActive(step.status)) seenGrowing.current.add(key);
      return true;
    }
    if (seenGrowing.current.has(key)) return true;
    if (wanted?.section === section && wanted.first <= group.last && wanted.last > group.first) return true;
    const last = streams[section]?.markers.groups().at(-1);
    return (
      step?.status === "failed" &&
      last !== undefined &&
      last.first >= group.first &&
      last.first <= group.last
    );
  };
  const isOpen = (section: number, group: LineGroup) =>
    chosen.get(keyOf(section, group)) ?? begins(section, group);

  const shape = streams
    .map((stream, section) => {
      if (stream.markers.size === 0) return "";
      const open = stream.markers.groups().map((group) => (isOpen(section, group) ? "o" : "c"));
      // A folded group that still grows hides every line that comes.
      const growing = stream.markers.groups().some((group) => group.last === null);
      return `${stream.markers.version}:${open.join("")}:${growing ? stream.total : ""}`;
    })
    .join(",");
  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` says when ranges differ
  const hidden = useMemo(
    () =>
      streams.map((stream, section) =>
        stream.markers.size === 0
          ? []
          : hiddenLines(stream.markers, (group) => isOpen(section, group), stream.total),
      ),
    [shape, streams],
  );

  const all = streams.flatMap((stream, section) =>
    stream.markers.groups().map((group) => ({ section, group })),
  );
  const folded = all.length === 0 ? null : all.every(({ section, group }) => !isOpen(section, group));
  return {
    shape,
    hidden,
    isOpen,
    toggle: (section, group) =>
      setChosen((now) => new Map(now).set(keyOf(section, group), !isOpen(section, group))),
    expose: (section, line) => {
      const closed = around(streams[section]?.markers.groups() ?? [], line).filter(
        (group) => !isOpen(section, group),
      );
      if (closed.length > 0)
        setChosen(
          (now) => new Map([...now, ...closed.map((group) => [keyOf(section, group), true] as const)]),
        );
      return closed.length > 0;
    },
    folded,
    fold: (fold) => setChosen(new Map(all.map(({ section, group }) => [keyOf(section, group), !fold]))),
  };
}
