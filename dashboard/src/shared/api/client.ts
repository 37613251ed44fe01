/** The one way to the Platform's REST API: typed by its OpenAPI document, errors as ApiError. */
import createClient, { type Middleware } from "openapi-fetch";
import type { paths } from "@/api.gen";
import { basePath } from "@/shared/base-path";
import { noteServerTime } from "@/shared/clock";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly traceId: string | null,
    readonly retryAfterS: number | null,
    readonly details: unknown,
  ) {
    super(message);
    this.name = "ApiError";
  }

  /** The orchestrator is away or slow, as opposed to: the request is wrong. */
  get orchestratorAway(): boolean {
    return this.status === 503 || this.status === 504;
  }
}

const WORDS: Record<number, string> = {
  0: "The control plane cannot be reached",
  401: "You are signed out",
  403: "You may not see this",
  404: "Not found",
  429: "Too many requests",
  503: "The orchestrator is offline",
  504: "The orchestrator did not answer in time",
};

const middleware: Middleware = {
  onRequest({ request }) {
    if (request.method !== "GET") request.headers.set("X-Kici-Csrf", "1");
    return request;
  },
  onResponse({ response }) {
    noteServerTime(response.headers.get("date"));
    return response;
  },
};

export const api = createClient<paths>({ baseUrl: basePath });
api.use(middleware);

let onSignedOut: () => void = () => {};
/** Called whenever any request answers 401. */
export function whenSignedOut(callback: () => void): void {
  onSignedOut = callback;
}

interface Answer<T> {
  data?: T | undefined;
  error?: unknown;
  response: Response;
}

/** Unwraps an openapi-fetch answer; throws ApiError for everything that is not a 2xx. */
export async function unwrap<T>(answer: Promise<Answer<T>>): Promise<T> {
  let settled: Answer<T>;
  try {
    settled = await answer;
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === "AbortError") throw cause;
    throw new ApiError(0, "unreachable", WORDS[0] ?? "", null, null, null);
  }
  const { data, error, response } = settled;
  if (response.ok) return data as T;
  throw toApiError(error, response);
}

function toApiError(body: unknown, response: Response): ApiError {
  const record = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  const text = (key: string) => (typeof record[key] === "string" ? (record[key] as string) : null);
  const retryAfter = Number(response.headers.get("retry-after"));
  const failure = new ApiError(
    response.status,
    text("code") ?? `http_${response.status}`,
    text("error") ?? WORDS[response.status] ?? `The server answered ${response.status}`,
    text("traceId"),
    Number.isFinite(retryAfter) && retryAfter > 0 ? retryAfter : null,
    record.details ?? null,
  );
  if (failure.status === 401 && failure.code !== "invalid_credentials") onSignedOut();
  return failure;
}
