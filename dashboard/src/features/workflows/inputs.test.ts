import { describe, expect, it } from "vitest";
import { hint, initialValues, inputFields, problem, problemsByField, toInputs } from "./inputs";

const fields = inputFields({
  triggers: [
    { _type: "push" },
    { _type: "schedule", cron: "0 4 * * *", inputs: [{ name: "never", type: "string" }] },
    {
      _type: "dispatch",
      inputs: [
        { name: "target", type: "string", default: "staging", choices: ["staging", "production"] },
        { name: "version", type: "string", required: true, pattern: "^v[0-9]+", description: "A tag" },
        { name: "replicas", type: "integer", default: 2, ge: 1, le: 10 },
        { name: "dry_run", type: "boolean", default: true },
        { name: "note", type: "string" },
      ],
    },
  ],
});
const field = (name: string) => {
  const found = fields.find((each) => each.name === name);
  if (!found) throw new Error(name);
  return found;
};

describe("the form of a workflow's inputs", () => {
  it("is a dispatch's before a schedule's, and begins with the defaults", () => {
    expect(fields.map((each) => each.name)).toEqual(["target", "version", "replicas", "dry_run", "note"]);
    expect(initialValues(fields)).toEqual({
      target: "staging",
      version: "",
      replicas: "2",
      dry_run: true,
      note: "",
    });
    expect(inputFields({ triggers: [{ _type: "push" }] })).toEqual([]);
  });

  it("says what a field takes", () => {
    expect(hint(field("version"))).toBe("A tag · matches ^v[0-9]+");
    expect(hint(field("replicas"))).toBe("1 to 10");
  });

  it("sends values of the right type, and leaves out what is empty", () => {
    const values = { ...initialValues(fields), version: "v12", replicas: "3" };
    expect(toInputs(fields, values)).toEqual({
      target: "staging",
      version: "v12",
      replicas: 3,
      dry_run: true,
    });
  });

  it("knows what is wrong before it is sent", () => {
    expect(problem(field("replicas"), "11")).toBe("At most 10");
    expect(problem(field("replicas"), "1.5")).toBe("A whole number");
    expect(problem(field("replicas"), "many")).toBe("A number");
    expect(problem(field("replicas"), "")).toBeNull();
    expect(problem(field("note"), "")).toBeNull();
  });

  it("shows the server's words where they belong", () => {
    const words = problemsByField("input 'version' must match ^v[0-9]+, got '12'; something else", fields);
    expect([...words]).toEqual([["version", "Must match ^v[0-9]+, got '12'"]]);
  });
});
