/** URL search parameters as people write them: `?status=failed&status=error&page=2`. Pure. */

export type RawSearch = Record<string, string | string[]>;

export function parseSearch(text: string): RawSearch {
  const search: RawSearch = {};
  for (const [key, value] of new URLSearchParams(text)) {
    const known = search[key];
    search[key] = known === undefined ? value : Array.isArray(known) ? [...known, value] : [known, value];
  }
  return search;
}

export function stringifySearch(search: Record<string, unknown>): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(search)) {
    if (value === undefined || value === null || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) params.append(key, String(each));
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}

export function texts(value: unknown): string[] | undefined {
  const list = (Array.isArray(value) ? value : [value]).filter(
    (each): each is string => typeof each === "string" && each !== "",
  );
  return list.length > 0 ? list : undefined;
}

export function text(value: unknown): string | undefined {
  return texts(value)?.[0];
}

export function oneOf<T extends string>(value: unknown, choices: readonly T[]): T | undefined {
  return choices.find((choice) => choice === text(value));
}

export function positive(value: unknown): number | undefined {
  const number = Number(text(value) ?? value);
  return Number.isInteger(number) && number > 0 ? number : undefined;
}
