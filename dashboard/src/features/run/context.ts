/**
 * What an agent tells about where a job ran. It comes as open JSON, so that agents may tell more than
 * this dashboard knows: what has an unexpected shape is left out. Pure.
 */

export interface EnvVar {
  name: string;
  value: string;
  /** system, inherited or user */
  category: string;
}

export interface ExecutionContext {
  sandboxType: string | null;
  runtime: { os: string | null; arch: string | null; pythonVersion: string | null };
  workingDirectory: string | null;
  gitRef: string | null;
  depCacheStatus: string | null;
  sdkVersion: string | null;
  envVars: EnvVar[];
}

type Open = Record<string, unknown>;

const text = (from: Open, key: string): string | null => {
  const value = from[key];
  return typeof value === "string" && value ? value : null;
};
const object = (value: unknown): Open =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Open) : {};

export function readContext(context: Open | null): ExecutionContext {
  const from = context ?? {};
  const runtime = object(from.runtime);
  return {
    sandboxType: text(from, "sandboxType"),
    runtime: {
      os: text(runtime, "os"),
      arch: text(runtime, "arch"),
      pythonVersion: text(runtime, "pythonVersion"),
    },
    workingDirectory: text(from, "workingDirectory"),
    gitRef: text(from, "gitRef"),
    depCacheStatus: text(from, "depCacheStatus"),
    sdkVersion: text(from, "sdkVersion"),
    envVars: (Array.isArray(from.envVars) ? from.envVars : []).flatMap((each) => {
      const variable = object(each);
      const name = text(variable, "name");
      return name
        ? [{ name, value: String(variable.value ?? ""), category: text(variable, "category") ?? "system" }]
        : [];
    }),
  };
}
