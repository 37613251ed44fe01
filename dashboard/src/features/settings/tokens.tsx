import { Button, NativeSelect, TextInput } from "@mantine/core";
import { queryOptions, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, unwrap } from "@/shared/api/client";
import { useNow } from "@/shared/clock";
import { at } from "@/shared/format";
import { DataTable } from "@/shared/ui/data-table";
import { KeyIcon } from "@/shared/ui/icons";
import { Empty, ErrorPanel, errorText, SkeletonRows } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import { AbsoluteTime, RelativeTime } from "@/shared/ui/time";
import { OnceOnly, RevokeButton } from "./secret";
import classes from "./settings.module.css";

const WARN_MS = 7 * 86_400_000;

export const patsQuery = () =>
  queryOptions({
    queryKey: ["pats"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/pats", { signal })),
  });

export function AccessTokens() {
  const query = useQuery(patsQuery());
  const cache = useQueryClient();
  const now = useNow(false);
  const [created, setCreated] = useState<string | null>(null);
  const create = useMutation({
    mutationFn: (body: { name: string; expiresInDays: number }) =>
      unwrap(api.POST("/api/v1/pats", { body })),
    onSuccess: ({ token }) => {
      setCreated(token);
      return cache.invalidateQueries({ queryKey: patsQuery().queryKey });
    },
  });
  return (
    <section aria-label="Personal access tokens">
      <p className={classes.intro}>
        Personal access tokens sign the <code>kici</code> command line and your own programs in as you.
      </p>
      {created ? <OnceOnly token={created} onClose={() => setCreated(null)} /> : null}
      <form
        className={classes.form}
        onSubmit={(event) => {
          event.preventDefault();
          const form = event.currentTarget;
          const data = new FormData(form);
          create.mutate(
            { name: String(data.get("name")).trim(), expiresInDays: Number(data.get("days")) },
            { onSuccess: () => form.reset() },
          );
        }}
      >
        <TextInput
          name="name"
          size="xs"
          label="Name"
          placeholder="laptop"
          required
          withAsterisk={false}
          maxLength={100}
          error={create.error ? errorText(create.error) : null}
        />
        <NativeSelect
          name="days"
          size="xs"
          label="Expires in"
          defaultValue="120"
          data={[
            { value: "7", label: "7 days" },
            { value: "30", label: "30 days" },
            { value: "120", label: "120 days" },
            { value: "365", label: "1 year" },
          ]}
        />
        <Button type="submit" loading={create.isPending}>
          Create token
        </Button>
      </form>
      {query.isPending ? (
        <SkeletonRows rows={3} />
      ) : !query.data ? (
        <ErrorPanel error={query.error} retry={() => void query.refetch()} />
      ) : query.data.pats.length === 0 ? (
        <Empty icon={KeyIcon} title="No access tokens" />
      ) : (
        <DataTable
          label="Personal access tokens"
          rows={query.data.pats}
          rowKey={(pat) => pat.id}
          columns={[
            { label: "Name", cell: (pat) => <strong>{pat.name}</strong> },
            { label: "Token", cell: (pat) => <code className="dim">{pat.display}…</code> },
            {
              label: "Last used",
              cell: (pat) => {
                const used = at(pat.lastUsedAt);
                return <span className="dim">{used === null ? "never" : <RelativeTime at={used} />}</span>;
              },
            },
            {
              label: "Expires",
              cell: (pat) => {
                const expires = at(pat.expiresAt);
                if (expires === null) return <span className="dim">never</span>;
                return (
                  <span className="dim">
                    <AbsoluteTime at={expires} />{" "}
                    {expires < now ? (
                      <Chip tone="failed">expired</Chip>
                    ) : expires - now < WARN_MS ? (
                      <Chip tone="queued">soon</Chip>
                    ) : null}
                  </span>
                );
              },
            },
            {
              label: "Actions",
              width: "90px",
              cell: (pat) => (
                <RevokeButton
                  noun="token"
                  name={pat.name}
                  consequence="Whoever uses it is signed out at once. This cannot be undone."
                  revoke={() =>
                    unwrap(api.DELETE("/api/v1/pats/{patId}", { params: { path: { patId: pat.id } } }))
                  }
                  queryKey={patsQuery().queryKey}
                />
              ),
            },
          ]}
        />
      )}
    </section>
  );
}
