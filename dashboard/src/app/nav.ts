import { linkOptions } from "@tanstack/react-router";
import { InboxIcon, PulseIcon, RunsIcon, SettingsIcon, WorkflowIcon } from "@/shared/ui/icons";

/** The pages of an organization, in the order of the sidebar; five fit a phone's bottom bar. */
export const NAV = [
  {
    id: "runs",
    label: "Runs",
    icon: RunsIcon,
    mobile: true,
    link: (orgId: string) => linkOptions({ to: "/orgs/$orgId/runs", params: { orgId } }),
  },
  {
    id: "workflows",
    label: "Workflows",
    icon: WorkflowIcon,
    mobile: true,
    link: (orgId: string) => linkOptions({ to: "/orgs/$orgId/workflows", params: { orgId } }),
  },
  {
    id: "deliveries",
    label: "Deliveries",
    icon: InboxIcon,
    mobile: true,
    link: (orgId: string) => linkOptions({ to: "/orgs/$orgId/deliveries", params: { orgId } }),
  },
  {
    id: "diagnostics",
    label: "Diagnostics",
    icon: PulseIcon,
    mobile: true,
    link: (orgId: string) => linkOptions({ to: "/orgs/$orgId/diagnostics", params: { orgId } }),
  },
  {
    id: "settings",
    label: "Settings",
    icon: SettingsIcon,
    mobile: false,
    link: (orgId: string) => linkOptions({ to: "/orgs/$orgId/settings", params: { orgId } }),
  },
] as const;

export type NavItem = (typeof NAV)[number];
