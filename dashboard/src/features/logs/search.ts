import { useDebouncedValue } from "@mantine/hooks";
import { useQueries } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";
import type { LogSearchResult } from "@/shared/api/types";
import { logSearchQuery } from "./queries";
import type { LogStream } from "./stream";

const DEBOUNCE_MS = 300;
const GROWING_AGAIN_MS = 2000;

export interface Match {
  section: number;
  line: number;
  start: number;
  end: number;
}

export interface LogSearch {
  query: string;
  /** The query that `matches` answers. */
  asked: string;
  setQuery: (query: string) => void;
  /** In reading order; the server's limit may have cut it. */
  matches: readonly Match[];
  /** How many there are, also beyond the limit. */
  total: number;
  /** The server stopped before the end: there are at least `total`. */
  partial: boolean;
  pending: boolean;
  failed: boolean;
  index: number;
  go: (step: 1 | -1) => Match | null;
  current: Match | null;
  clear: () => void;
}

/** Searches all lines of the shown streams on the server, loaded here or not. */
export function useLogSearch(streams: readonly LogStream[]): LogSearch {
  const [query, setQuery] = useState("");
  const [debounced] = useDebouncedValue(query, DEBOUNCE_MS);
  const wanted = query === "" ? "" : debounced;
  const [index, setIndex] = useState(0);
  const growing = useGrowing(streams, wanted !== "");

  const results = useQueries({
    queries: streams.map((stream) => ({
      ...logSearchQuery(stream.target, wanted, growing.get(stream) ?? stream.total),
      enabled: wanted !== "" && stream.loaded && stream.total > 0,
    })),
    combine: (all) => ({
      answers: all.map((result) => result.data),
      pending: all.some((result) => result.isFetching),
      failed: all.some((result) => result.isError),
    }),
  });

  const answers = useKept(streams, wanted, results.answers);
  const matches = useMemo(
    () =>
      wanted === ""
        ? []
        : answers.flatMap((answer, section) =>
            (answer?.matches ?? []).map(({ line, start, end }) => ({ section, line, start, end })),
          ),
    [answers, wanted],
  );
  const total = wanted === "" ? 0 : answers.reduce((sum, answer) => sum + (answer?.total ?? 0), 0);

  // biome-ignore lint/correctness/useExhaustiveDependencies: a new query starts at its first match
  useEffect(() => setIndex(0), [wanted]);

  const safeIndex = matches.length === 0 ? 0 : Math.min(index, matches.length - 1);
  return {
    query,
    asked: wanted,
    setQuery,
    matches,
    total,
    partial: answers.some((answer, index) => {
      const stream = streams[index];
      return answer?.truncated && stream?.complete && answer.scannedLines < stream.total;
    }),
    pending: results.pending || (query !== "" && query !== debounced),
    failed: results.failed,
    index: safeIndex,
    current: matches[safeIndex] ?? null,
    go: (step) => {
      if (matches.length === 0) return null;
      const next = (safeIndex + step + matches.length) % matches.length;
      setIndex(next);
      return matches[next] ?? null;
    },
    clear: () => setQuery(""),
  };
}

/** A growing log is searched again and again: until the new answer is here, the last one stands. */
function useKept(
  streams: readonly LogStream[],
  wanted: string,
  fresh: readonly (LogSearchResult | undefined)[],
): readonly (LogSearchResult | undefined)[] {
  const kept = useRef({ wanted, byStream: new Map<LogStream, LogSearchResult>() });
  return useMemo(() => {
    if (kept.current.wanted !== wanted) kept.current = { wanted, byStream: new Map() };
    const { byStream } = kept.current;
    return streams.map((stream, index) => {
      const answer = fresh[index] ?? byStream.get(stream);
      if (answer) byStream.set(stream, answer);
      return answer;
    });
  }, [streams, wanted, fresh]);
}

/** The length to search a growing stream at, renewed every two seconds rather than with every line. */
function useGrowing(streams: readonly LogStream[], active: boolean): ReadonlyMap<LogStream, number> {
  const [lengths, setLengths] = useState<ReadonlyMap<LogStream, number>>(new Map());
  useEffect(() => {
    if (!active) return;
    const sample = () => {
      const open = streams.filter((stream) => !stream.complete);
      setLengths((known) =>
        open.length === known.size && open.every((stream) => known.get(stream) === stream.total)
          ? known
          : new Map(open.map((stream) => [stream, stream.total])),
      );
    };
    sample();
    const timer = setInterval(sample, GROWING_AGAIN_MS);
    return () => clearInterval(timer);
  }, [streams, active]);
  return lengths;
}
