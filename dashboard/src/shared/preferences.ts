/** What the browser remembers. Blocked or broken storage means the default, never an error. */
import { useCallback, useSyncExternalStore } from "react";

const listeners = new Map<string, Set<() => void>>();
const memory = new Map<string, string>();

function read(key: string): string | null {
  try {
    return localStorage.getItem(key) ?? memory.get(key) ?? null;
  } catch {
    return memory.get(key) ?? null;
  }
}

export function remember(key: string, value: string): void {
  memory.set(key, value);
  try {
    localStorage.setItem(key, value);
  } catch {
    // kept for this page in memory
  }
  for (const listener of listeners.get(key) ?? []) listener();
}

export function recall<T>(key: string, parse: (text: string) => T | null, fallback: T): T {
  const text = read(key);
  if (text === null) return fallback;
  try {
    return parse(text) ?? fallback;
  } catch {
    return fallback;
  }
}

if (typeof window !== "undefined") {
  window.addEventListener("storage", (event) => {
    for (const listener of (event.key && listeners.get(event.key)) || []) listener();
  });
}

function useStored(key: string): string | null {
  const subscribe = useCallback(
    (listener: () => void) => {
      const set = listeners.get(key) ?? new Set();
      listeners.set(key, set.add(listener));
      return () => {
        set.delete(listener);
      };
    },
    [key],
  );
  return useSyncExternalStore(subscribe, () => read(key));
}

export function useChoice<T extends string>(
  key: string,
  choices: readonly T[],
  fallback: T,
): [T, (value: T) => void] {
  const stored = useStored(key);
  const value = choices.find((choice) => choice === stored) ?? fallback;
  return [value, useCallback((next: T) => remember(key, next), [key])];
}

export function useFlag(key: string, fallback: boolean): [boolean, (value: boolean) => void] {
  const [value, set] = useChoice(key, ["true", "false"] as const, fallback ? "true" : "false");
  return [value === "true", useCallback((next: boolean) => set(next ? "true" : "false"), [set])];
}

export function useStringSet(key: string): [ReadonlySet<string>, (value: ReadonlySet<string>) => void] {
  const stored = useStored(key);
  const value = new Set(stored ? stored.split(",") : []);
  return [value, useCallback((next: ReadonlySet<string>) => remember(key, [...next].join(",")), [key])];
}

export const useZone = () => useChoice("kici:time", ["local", "utc"] as const, "local");
