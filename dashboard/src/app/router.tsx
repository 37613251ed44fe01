import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from "@tanstack/react-router";
import { parseRunSearch } from "@/features/runs/search";
import { ApiError } from "@/shared/api/client";
import { basePath } from "@/shared/base-path";
import { recall, remember } from "@/shared/preferences";
import { oneOf, parseSearch, stringifySearch, text } from "@/shared/search-params";
import { authConfigQuery, userQuery } from "@/shared/session";
import { Crash, NotFound } from "./errors";
import type { Live } from "./live";
import { RunsRoute } from "./routes/runs";
import { Shell } from "./shell";

export interface RouterContext {
  cache: QueryClient;
  live: Live;
}

const rootRoute = createRootRouteWithContext<RouterContext>()({
  component: Outlet,
  notFoundComponent: NotFound,
  errorComponent: Crash,
});

const loginRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/login",
  validateSearch: (raw: Record<string, unknown>): { next?: string | undefined } => ({
    next: text(raw.next),
  }),
  component: lazyRouteComponent(() => import("./routes/login"), "LoginRoute"),
});

const setupRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/setup",
  validateSearch: (raw: Record<string, unknown>): { token?: string | undefined } => ({
    token: text(raw.token),
  }),
  component: lazyRouteComponent(() => import("./routes/login"), "SetupRoute"),
});

/** Everything behind the sign-in. */
const shellRoute = createRoute({
  getParentRoute: () => rootRoute,
  id: "shell",
  beforeLoad: async ({ context, location }) => {
    try {
      const user = await context.cache.ensureQueryData(userQuery());
      return { user };
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      const config = await context.cache.ensureQueryData(authConfigQuery()).catch(() => null);
      if (config?.setupRequired) throw redirect({ to: "/setup" });
      throw redirect({ to: "/login", search: { next: wayBack(location) } });
    }
  },
  loader: ({ context }) => context.live.socket.connect(),
  component: Shell,
});

/** Where to return to after signing in: the address as the browser shows it. */
export function wayBack(location: { pathname: string; publicHref: string }): string | undefined {
  return location.pathname === "/" ? undefined : location.publicHref;
}

export function lastOrg(orgs: readonly { id: string }[]): string | undefined {
  const last = recall("kici:lastOrg", (id) => id, "");
  return orgs.find((org) => org.id === last)?.id ?? orgs[0]?.id;
}

const homeRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/",
  beforeLoad: ({ context }) => {
    const orgId = lastOrg(context.user.orgs);
    throw orgId ? redirect({ to: "/orgs/$orgId/runs", params: { orgId } }) : redirect({ to: "/orgs" });
  },
});

const orgsRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/orgs",
  component: lazyRouteComponent(() => import("./routes/orgs"), "OrgsRoute"),
});

const accountRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/account",
  component: lazyRouteComponent(() => import("@/features/account/page"), "AccountPage"),
});

const orgRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/orgs/$orgId",
  component: Outlet,
  beforeLoad: ({ context, params }) => {
    remember("kici:lastOrg", params.orgId);
    context.live.socket.watchOrg(params.orgId);
  },
});

const orgHomeRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/orgs/$orgId/runs", params });
  },
});

export const runsRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/runs",
  validateSearch: parseRunSearch,
  component: RunsRoute,
});

const RUN_TABS = ["logs", "payload", "timeline", "graph", "summary", "metadata"] as const;
type RunTab = (typeof RUN_TABS)[number];

/** One component for a run and its selections, so that choosing a step keeps everything in place. */
export const runRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/runs/$runId",
  validateSearch: (raw: Record<string, unknown>): { tab?: RunTab | undefined } => ({
    tab: oneOf(raw.tab, RUN_TABS),
  }),
  component: lazyRouteComponent(() => import("./routes/run"), "RunRoute"),
});
const runIndexRoute = createRoute({ getParentRoute: () => runRoute, path: "/" });
const runJobRoute = createRoute({ getParentRoute: () => runRoute, path: "/jobs/$jobId" });
const runStepRoute = createRoute({
  getParentRoute: () => runRoute,
  path: "/jobs/$jobId/steps/$stepIndex",
});

const workflowsRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/workflows",
  component: lazyRouteComponent(() => import("./routes/org-pages"), "WorkflowsRoute"),
});
const deliveriesRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/deliveries",
  component: lazyRouteComponent(() => import("./routes/org-pages"), "DeliveriesRoute"),
});
const diagnosticsRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/diagnostics",
  component: lazyRouteComponent(() => import("./routes/org-pages"), "DiagnosticsRoute"),
});
const settingsHomeRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/settings",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/orgs/$orgId/settings/$tab", params: { ...params, tab: "tokens" } });
  },
});
const settingsRoute = createRoute({
  getParentRoute: () => orgRoute,
  path: "/settings/$tab",
  component: lazyRouteComponent(() => import("./routes/org-pages"), "SettingsRoute"),
});

const routeTree = rootRoute.addChildren([
  loginRoute,
  setupRoute,
  shellRoute.addChildren([
    homeRoute,
    orgsRoute,
    accountRoute,
    orgRoute.addChildren([
      orgHomeRoute,
      runsRoute,
      runRoute.addChildren([runIndexRoute, runJobRoute, runStepRoute]),
      workflowsRoute,
      deliveriesRoute,
      diagnosticsRoute,
      settingsHomeRoute,
      settingsRoute,
    ]),
  ]),
]);

export function makeRouter(context: RouterContext) {
  return createRouter({
    routeTree,
    basepath: basePath || "/",
    context,
    parseSearch,
    stringifySearch,
    defaultPreload: "intent",
    defaultPreloadStaleTime: 0,
    defaultErrorComponent: Crash,
    defaultNotFoundComponent: NotFound,
    scrollRestoration: false,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
