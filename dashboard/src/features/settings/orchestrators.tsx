import { Button, TextInput } from "@mantine/core";
import { queryOptions, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, unwrap } from "@/shared/api/client";
import { at } from "@/shared/format";
import { DataTable, SubLine } from "@/shared/ui/data-table";
import { KeyIcon, ServerIcon } from "@/shared/ui/icons";
import { Empty, ErrorPanel, errorText, SkeletonRows } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import { RelativeTime } from "@/shared/ui/time";
import { OnceOnly, RevokeButton } from "./secret";
import classes from "./settings.module.css";

export const orchestratorsQuery = (orgId: string) =>
  queryOptions({
    queryKey: ["org", orgId, "orchestrators"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/orgs/{orgId}/orchestrators", { params: { path: { orgId } }, signal })),
    refetchInterval: 10_000,
  });

export const orchestratorKeysQuery = (orgId: string) =>
  queryOptions({
    queryKey: ["org", orgId, "orchestrator-keys"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/orgs/{orgId}/orchestrator-keys", { params: { path: { orgId } }, signal })),
  });

export function Orchestrators({ orgId }: { orgId: string }) {
  return (
    <>
      <Connected orgId={orgId} />
      <Keys orgId={orgId} />
    </>
  );
}

function Connected({ orgId }: { orgId: string }) {
  const query = useQuery(orchestratorsQuery(orgId));
  return (
    <section className={classes.section} aria-label="Orchestrators">
      <h2>Orchestrators</h2>
      {query.isPending ? (
        <SkeletonRows rows={1} />
      ) : !query.data ? (
        <ErrorPanel error={query.error} retry={() => void query.refetch()} />
      ) : query.data.orchestrators.length === 0 ? (
        <Empty icon={ServerIcon} title="No orchestrator connected">
          Start one with <code>KICI_PLATFORM_URL</code> set to this address and{" "}
          <code>KICI_PLATFORM_TOKEN</code> set to a key from below.
        </Empty>
      ) : (
        <DataTable
          label="Orchestrators"
          rows={query.data.orchestrators}
          rowKey={(each) => each.connectionId}
          columns={[
            {
              label: "Cluster",
              cell: (each) => (
                <>
                  <strong>{each.clusterName}</strong>
                  <SubLine>
                    <code>{each.instanceId}</code>
                  </SubLine>
                </>
              ),
            },
            {
              label: "State",
              cell: (each) => (
                <Chip tone={each.connected ? "success" : "failed"}>
                  {each.connected ? "connected" : "disconnected"}
                </Chip>
              ),
            },
            { label: "Mode", cell: (each) => each.mode },
            { label: "Version", cell: (each) => <span className="dim">{each.version}</span> },
            { label: "Host", cell: (each) => <span className="dim">{each.hostname}</span> },
            {
              label: "Last heartbeat",
              cell: (each) => (
                <span className="dim">
                  <RelativeTime at={Date.parse(each.lastSeenAt)} />
                </span>
              ),
            },
          ]}
        />
      )}
    </section>
  );
}

function Keys({ orgId }: { orgId: string }) {
  const query = useQuery(orchestratorKeysQuery(orgId));
  const cache = useQueryClient();
  const [created, setCreated] = useState<string | null>(null);
  const create = useMutation({
    mutationFn: (name: string) =>
      unwrap(
        api.POST("/api/v1/orgs/{orgId}/orchestrator-keys", {
          params: { path: { orgId } },
          body: { name },
        }),
      ),
    onSuccess: ({ token }) => {
      setCreated(token);
      return cache.invalidateQueries({ queryKey: orchestratorKeysQuery(orgId).queryKey });
    },
  });
  return (
    <section className={classes.section} aria-label="Orchestrator keys">
      <h2>Orchestrator keys</h2>
      <p className={classes.intro}>
        A key lets an orchestrator connect to this organization, nothing else.
      </p>
      {created ? <OnceOnly token={created} onClose={() => setCreated(null)} /> : null}
      <form
        className={classes.form}
        onSubmit={(event) => {
          event.preventDefault();
          const form = event.currentTarget;
          create.mutate(String(new FormData(form).get("name")).trim(), { onSuccess: () => form.reset() });
        }}
      >
        <TextInput
          name="name"
          size="xs"
          label="Name"
          placeholder="production"
          required
          withAsterisk={false}
          maxLength={100}
          error={create.error ? errorText(create.error) : null}
        />
        <Button type="submit" loading={create.isPending}>
          Create key
        </Button>
      </form>
      {query.isPending ? (
        <SkeletonRows rows={2} />
      ) : !query.data ? (
        <ErrorPanel error={query.error} retry={() => void query.refetch()} />
      ) : query.data.keys.length === 0 ? (
        <Empty icon={KeyIcon} title="No orchestrator keys" />
      ) : (
        <DataTable
          label="Orchestrator keys"
          rows={query.data.keys}
          rowKey={(key) => key.id}
          columns={[
            { label: "Name", cell: (key) => <strong>{key.name}</strong> },
            { label: "Key", cell: (key) => <code className="dim">{key.display}…</code> },
            {
              label: "Last used",
              cell: (key) => {
                const used = at(key.lastUsedAt);
                return <span className="dim">{used === null ? "never" : <RelativeTime at={used} />}</span>;
              },
            },
            {
              label: "Actions",
              width: "90px",
              cell: (key) => (
                <RevokeButton
                  noun="key"
                  name={key.name}
                  consequence="Orchestrators that use it are disconnected at once. This cannot be undone."
                  revoke={() =>
                    unwrap(
                      api.DELETE("/api/v1/orgs/{orgId}/orchestrator-keys/{keyId}", {
                        params: { path: { orgId, keyId: key.id } },
                      }),
                    )
                  }
                  queryKey={orchestratorKeysQuery(orgId).queryKey}
                />
              ),
            },
          ]}
        />
      )}
    </section>
  );
}
