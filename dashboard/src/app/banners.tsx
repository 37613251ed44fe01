import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { useLive, useLiveState } from "@/shared/live/context";
import { useOrchestratorLink } from "@/shared/live/link";
import { authConfigQuery } from "@/shared/session";
import { ServerIcon, WarningIcon } from "@/shared/ui/icons";
import classes from "./shell.module.css";

const PATIENCE_MS = 3000;

/** What is out of reach, above every page while it is so. */
export function Banners({ orgId }: { orgId: string | null }) {
  const unreachable = useUnreachable();
  const link = useOrchestratorLink(orgId ?? "");
  if (unreachable) {
    return (
      <div className={classes.banner} data-tone="failed" role="alert" data-testid="banner-unreachable">
        <WarningIcon size={15} />
        <span>
          <strong>Control plane unreachable.</strong> Showing what was loaded last; trying again.
        </span>
      </div>
    );
  }
  if (link && !link.connected) {
    return (
      <div className={classes.banner} data-tone="queued" role="status" data-testid="banner-orchestrator">
        <ServerIcon size={15} />
        <span>
          <strong>Orchestrator offline.</strong> Showing cached data; new runs start when it is back.
        </span>
      </div>
    );
  }
  return null;
}

/** A lost socket may be a proxy's fault: only when plain requests fail too is the server away. */
function useUnreachable(): boolean {
  const state = useLiveState();
  const socket = useLive();
  const [down, setDown] = useState(false);
  useEffect(() => {
    if (state === "open") {
      setDown(false);
      return;
    }
    const since = socket.downSinceMs ?? Date.now();
    const timer = setTimeout(() => setDown(true), Math.max(0, since + PATIENCE_MS - Date.now()));
    return () => clearTimeout(timer);
  }, [state, socket]);
  const probe = useQuery({
    ...authConfigQuery(),
    queryKey: ["probe"],
    enabled: down,
    refetchInterval: 3000,
    staleTime: 0,
    gcTime: 0,
  });
  return down && probe.isError;
}
