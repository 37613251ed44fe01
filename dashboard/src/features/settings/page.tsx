import { Tabs } from "@mantine/core";
import { Page } from "@/shared/ui/page";
import { Orchestrators } from "./orchestrators";
import { AccessTokens } from "./tokens";

const TABS = [
  ["tokens", "Access tokens"],
  ["orchestrators", "Orchestrators"],
] as const;

interface SettingsProps {
  orgId: string;
  tab: string;
  onTab: (tab: string) => void;
}

export function SettingsPage({ orgId, tab, onTab }: SettingsProps) {
  const current = TABS.find(([id]) => id === tab)?.[0] ?? "tokens";
  return (
    <Page name="settings" title="Settings" narrow>
      <Tabs value={current} onChange={(next) => onTab(next ?? "tokens")} keepMounted={false}>
        <Tabs.List mb="md">
          {TABS.map(([id, label]) => (
            <Tabs.Tab key={id} value={id}>
              {label}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value="tokens">
          <AccessTokens />
        </Tabs.Panel>
        <Tabs.Panel value="orchestrators">
          <Orchestrators orgId={orgId} />
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}
