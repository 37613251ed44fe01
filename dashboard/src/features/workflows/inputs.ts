/** The form of a workflow's inputs: what its triggers ask for, what was typed, what is wrong with it. Pure. */
import type { RegistrationView } from "@/shared/api/types";

export interface InputField {
  name: string;
  type: "string" | "integer" | "number" | "boolean";
  required: boolean;
  default: string | number | boolean | null;
  choices: readonly (string | number | boolean)[];
  ge: number | null;
  le: number | null;
  minLength: number | null;
  maxLength: number | null;
  pattern: string | null;
  description: string;
}

/** As it stands in the form; what is left empty is not sent. */
export type FormValue = string | boolean;
export type FormValues = Readonly<Record<string, FormValue>>;

type Open = Record<string, unknown>;
const asObject = (value: unknown): Open =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Open) : {};
const asList = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const asNumber = (value: unknown): number | null => (typeof value === "number" ? value : null);
const asScalar = (value: unknown): string | number | boolean | null =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean" ? value : null;

/** Which trigger a start by hand acts for, as the orchestrator decides it: a dispatch, else a schedule. */
export function inputFields(registration: Pick<RegistrationView, "triggers">): InputField[] {
  const triggers = registration.triggers.map(asObject);
  const chosen =
    triggers.find((each) => each._type === "dispatch") ??
    triggers.find((each) => each._type === "schedule");
  return asList(chosen?.inputs).map((each) => {
    const field = asObject(each);
    const type = field.type;
    return {
      name: String(field.name),
      type: type === "integer" || type === "number" || type === "boolean" ? type : "string",
      required: field.required === true,
      default: asScalar(field.default),
      choices: asList(field.choices).flatMap((choice) => asScalar(choice) ?? []),
      ge: asNumber(field.ge),
      le: asNumber(field.le),
      minLength: asNumber(field.minLength),
      maxLength: asNumber(field.maxLength),
      pattern: typeof field.pattern === "string" ? field.pattern : null,
      description: typeof field.description === "string" ? field.description : "",
    };
  });
}

export function initialValues(fields: readonly InputField[]): FormValues {
  return Object.fromEntries(
    fields.map((field) => [
      field.name,
      field.type === "boolean" && field.choices.length === 0
        ? field.default === true
        : field.default === null
          ? ""
          : String(field.default),
    ]),
  );
}

/** What the field takes, for the line below it. */
export function hint(field: InputField): string {
  const limits: string[] = [];
  const between = (low: number | null, high: number | null, what: string) => {
    if (low !== null && high !== null) limits.push(`${low} to ${high}${what}`);
    else if (low !== null) limits.push(`at least ${low}${what}`);
    else if (high !== null) limits.push(`at most ${high}${what}`);
  };
  if (field.choices.length === 0) {
    between(field.ge, field.le, "");
    between(field.minLength, field.maxLength, " characters");
    if (field.type === "integer" && field.ge === null && field.le === null) limits.push("a whole number");
    if (field.pattern) limits.push(`matches ${field.pattern}`);
  }
  return [field.description, limits.join(", ")].filter(Boolean).join(" · ");
}

/**
 * Why a value cannot be sent. Patterns are the server's to judge: its expressions are not JavaScript's.
 */
export function problem(field: InputField, value: FormValue): string | null {
  if (typeof value === "boolean") return null;
  if (value === "") return field.required && field.type !== "string" ? "Needed" : null;
  if (field.choices.length > 0) return null;
  if (field.type === "string") {
    const length = [...value].length;
    if (field.minLength !== null && length < field.minLength)
      return `At least ${field.minLength} characters`;
    if (field.maxLength !== null && length > field.maxLength)
      return `At most ${field.maxLength} characters`;
    return null;
  }
  const number = Number(value);
  if (value.trim() === "" || !Number.isFinite(number)) return "A number";
  if (field.type === "integer" && !Number.isInteger(number)) return "A whole number";
  if (field.ge !== null && number < field.ge) return `At least ${field.ge}`;
  if (field.le !== null && number > field.le) return `At most ${field.le}`;
  return null;
}

/** What is sent. An empty field that need not be filled is left out, so that its default holds. */
export function toInputs(fields: readonly InputField[], values: FormValues): Record<string, unknown> {
  return Object.fromEntries(
    fields.flatMap((field): [string, unknown][] => {
      const value = values[field.name] ?? "";
      if (typeof value === "boolean") return [[field.name, value]];
      if (value === "" && !field.required) return [];
      if (field.choices.length > 0)
        return [[field.name, field.choices.find((choice) => String(choice) === value) ?? value]];
      if (field.type === "integer" || field.type === "number") return [[field.name, Number(value)]];
      return [[field.name, value]];
    }),
  );
}

/** The server's sentences, each at the field that it names: "input 'version' is …". */
export function problemsByField(message: string, fields: readonly InputField[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const sentence of message.split("; ")) {
    const name = /^input '([^']+)' /.exec(sentence)?.[1];
    if (name && fields.some((field) => field.name === name) && !found.has(name))
      found.set(
        name,
        sentence.slice(`input '${name}' `.length).replace(/^./, (each) => each.toUpperCase()),
      );
  }
  return found;
}
