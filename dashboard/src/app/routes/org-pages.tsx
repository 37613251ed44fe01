import { useNavigate, useParams } from "@tanstack/react-router";
import { DeliveriesPage } from "@/features/deliveries/page";
import { DiagnosticsPage } from "@/features/diagnostics/page";
import { SettingsPage } from "@/features/settings/page";
import { WorkflowsPage } from "@/features/workflows/page";

function useOrgId(): string {
  return useParams({ strict: false }).orgId ?? "";
}

export function WorkflowsRoute() {
  return <WorkflowsPage orgId={useOrgId()} />;
}

export function DeliveriesRoute() {
  return <DeliveriesPage orgId={useOrgId()} />;
}

export function DiagnosticsRoute() {
  return <DiagnosticsPage orgId={useOrgId()} />;
}

export function SettingsRoute() {
  const { orgId, tab } = useParams({ from: "/shell/orgs/$orgId/settings/$tab" });
  const navigate = useNavigate();
  return (
    <SettingsPage
      orgId={orgId}
      tab={tab}
      onTab={(next) => void navigate({ to: "/orgs/$orgId/settings/$tab", params: { orgId, tab: next } })}
    />
  );
}
