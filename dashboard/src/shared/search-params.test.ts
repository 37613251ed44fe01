import { describe, expect, it } from "vitest";
import { oneOf, parseSearch, positive, stringifySearch, texts } from "./search-params";

describe("URL search parameters", () => {
  it("are readable, with repetition for several values", () => {
    expect(stringifySearch({ status: ["failed", "error"], branch: "main", page: 2, q: undefined })).toBe(
      "?status=failed&status=error&branch=main&page=2",
    );
  });

  it("survive the way there and back", () => {
    const search = { workflow: ["a&b", "c d"], q: "ü=1" };
    expect(parseSearch(stringifySearch(search))).toEqual({ workflow: ["a&b", "c d"], q: "ü=1" });
  });

  it("are checked when read", () => {
    expect(texts("main")).toEqual(["main"]);
    expect(texts("")).toBeUndefined();
    expect(positive("3")).toBe(3);
    expect(positive("-1")).toBeUndefined();
    expect(positive("x")).toBeUndefined();
    expect(oneOf("up", ["asc", "desc"])).toBeUndefined();
  });
});
