import "@mantine/core/styles.layer.css";
import "@mantine/notifications/styles.layer.css";
import "@mantine/spotlight/styles.layer.css";
import "./app/tokens.css";
import { MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { makeLive } from "./app/live";
import { makeRouter, wayBack } from "./app/router";
import { cssVariables, theme, themeManager } from "./app/theme";
import { LogHubProvider } from "./features/logs/hub";
import { ApiError, whenSignedOut } from "./shared/api/client";
import { LiveProvider } from "./shared/live/context";

const cache = new QueryClient({
  defaultOptions: {
    queries: {
      // Live events keep what is shown true; a page that comes back into view asks again anyway.
      staleTime: 5_000,
      gcTime: 5 * 60_000,
      retry: (count, error) =>
        count < 2 && error instanceof ApiError && (error.status === 0 || error.status >= 500),
      retryDelay: (attempt) => Math.min(4000, 400 * 2 ** attempt),
    },
  },
});
const live = makeLive(cache);
const router = makeRouter({ cache, live });

whenSignedOut(() => {
  const here = router.state.location;
  if (here.pathname === "/login" || here.pathname === "/setup") return;
  live.socket.disconnect();
  cache.clear();
  void router.navigate({ to: "/login", search: { next: wayBack(here) } });
});

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <MantineProvider
      theme={theme}
      cssVariablesResolver={cssVariables}
      colorSchemeManager={themeManager()}
      defaultColorScheme="auto"
    >
      <QueryClientProvider client={cache}>
        <LiveProvider value={live.socket}>
          <LogHubProvider value={live.logs}>
            <Notifications position="bottom-right" />
            <RouterProvider router={router} />
          </LogHubProvider>
        </LiveProvider>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
