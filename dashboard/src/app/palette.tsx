import { useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { createSpotlight, Spotlight, type SpotlightActionData } from "@mantine/spotlight";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { runListQuery } from "@/features/runs/queries";
import { shortSha } from "@/shared/format";
import { useZone } from "@/shared/preferences";
import {
  CommitIcon,
  GlobeIcon,
  KeyboardIcon,
  RunsIcon,
  SearchIcon,
  SunMoonIcon,
  UserIcon,
} from "@/shared/ui/icons";
import { StatusIcon } from "@/shared/ui/status";
import { NAV } from "./nav";

const [store, spotlight] = createSpotlight();
export const openPalette = spotlight.open;

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const SHA = /^[0-9a-f]{7,40}$/i;
const RECENT = 8;

interface PaletteProps {
  orgId: string | null;
  onHelp: () => void;
}

export function Palette({ orgId, onHelp }: PaletteProps) {
  const [query, setQuery] = useState("");
  const [opened, setOpened] = useState(false);
  const navigate = useNavigate();
  const recent = useQuery({ ...runListQuery(orgId ?? "", {}), enabled: opened && orgId !== null }).data;
  const { setColorScheme } = useMantineColorScheme();
  const colorScheme = useComputedColorScheme();
  const [zone, setZone] = useZone();

  const actions: SpotlightActionData[] = [];
  const wanted = query.trim();
  if (orgId && ID.test(wanted)) {
    actions.push({
      id: "open-run",
      label: `Open run ${wanted}`,
      keywords: wanted,
      leftSection: <RunsIcon />,
      onClick: () => void navigate({ to: "/orgs/$orgId/runs/$runId", params: { orgId, runId: wanted } }),
    });
  } else if (orgId && SHA.test(wanted)) {
    actions.push({
      id: "open-sha",
      label: `Runs of commit ${shortSha(wanted)}`,
      keywords: wanted,
      leftSection: <CommitIcon />,
      onClick: () => void navigate({ to: "/orgs/$orgId/runs", params: { orgId }, search: { sha: wanted } }),
    });
  }
  if (orgId) {
    for (const item of NAV) {
      actions.push({
        id: item.id,
        label: `Go to ${item.label}`,
        leftSection: <item.icon />,
        onClick: () => void navigate(item.link(orgId)),
      });
    }
    for (const run of recent?.runs.slice(0, RECENT) ?? []) {
      actions.push({
        id: run.runId,
        label: run.workflowName,
        description: [run.branch, shortSha(run.sha), run.commitMessage?.split("\n", 1)[0]]
          .filter(Boolean)
          .join(" · "),
        leftSection: <StatusIcon status={run.displayStatus} />,
        onClick: () =>
          void navigate({ to: "/orgs/$orgId/runs/$runId", params: { orgId, runId: run.runId } }),
      });
    }
  }
  actions.push(
    {
      id: "theme",
      label: `Switch to ${colorScheme === "dark" ? "light" : "dark"} theme`,
      leftSection: <SunMoonIcon />,
      onClick: () => setColorScheme(colorScheme === "dark" ? "light" : "dark"),
    },
    {
      id: "zone",
      label: `Show times in ${zone === "utc" ? "local time" : "UTC"}`,
      leftSection: <GlobeIcon />,
      onClick: () => setZone(zone === "utc" ? "local" : "utc"),
    },
    {
      id: "account",
      label: "Account",
      leftSection: <UserIcon />,
      onClick: () => void navigate({ to: "/account" }),
    },
    { id: "help", label: "Keyboard shortcuts", leftSection: <KeyboardIcon />, onClick: onHelp },
  );
  if (orgId && wanted) {
    actions.push({
      id: "search",
      label: `Search runs for “${wanted}”`,
      keywords: wanted,
      leftSection: <SearchIcon />,
      onClick: () => void navigate({ to: "/orgs/$orgId/runs", params: { orgId }, search: { q: wanted } }),
    });
  }
  return (
    <Spotlight
      store={store}
      actions={actions}
      query={query}
      onQueryChange={setQuery}
      shortcut={["mod + K"]}
      nothingFound="Nothing found"
      scrollable
      centered={false}
      yOffset="12vh"
      overlayProps={{ blur: 0, backgroundOpacity: 0.4 }}
      onSpotlightOpen={() => setOpened(true)}
      onSpotlightClose={() => setOpened(false)}
      maxHeight={420}
      searchProps={{
        leftSection: <SearchIcon />,
        placeholder: "Go to a page, a run, an id or a commit",
        "aria-label": "Command palette",
      }}
    />
  );
}
