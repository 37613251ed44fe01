import { Button, PasswordInput, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, unwrap } from "@/shared/api/client";
import { userQuery, useUser } from "@/shared/session";
import { errorText, Page } from "@/shared/ui/page";
import classes from "./account.module.css";

interface Changes {
  displayName?: string;
  password?: string;
  currentPassword?: string;
}

function useUpdateUser(done: string) {
  const cache = useQueryClient();
  return useMutation({
    mutationFn: (body: Changes) => unwrap(api.PATCH("/api/v1/user", { body })),
    onSuccess: (user) => {
      cache.setQueryData(userQuery().queryKey, user);
      notifications.show({ message: done });
    },
  });
}

export function AccountPage() {
  return (
    <Page name="account" title="Account" narrow>
      <Profile />
      <Password />
    </Page>
  );
}

function Profile() {
  const user = useUser();
  const update = useUpdateUser("Name saved");
  return (
    <section className={classes.section} aria-label="Profile">
      <h2>Profile</h2>
      <form
        className={classes.form}
        onSubmit={(event) => {
          event.preventDefault();
          update.mutate({ displayName: String(new FormData(event.currentTarget).get("name")).trim() });
        }}
      >
        <TextInput label="E-mail" value={user.email} readOnly variant="unstyled" />
        <TextInput
          name="name"
          label="Name"
          defaultValue={user.displayName}
          autoComplete="name"
          maxLength={100}
          error={update.error ? errorText(update.error) : null}
        />
        <div>
          <Button type="submit" variant="default" loading={update.isPending}>
            Save name
          </Button>
        </div>
      </form>
    </section>
  );
}

function Password() {
  const user = useUser();
  const [mismatch, setMismatch] = useState(false);
  const update = useUpdateUser(user.hasPassword ? "Password changed" : "Password set");
  return (
    <section className={classes.section} aria-label="Password">
      <h2>{user.hasPassword ? "Change password" : "Set a password"}</h2>
      {user.hasPassword ? null : (
        <p className={classes.intro}>
          You came in by a one-time link. With a password you can sign in from anywhere.
        </p>
      )}
      <form
        className={classes.form}
        onSubmit={(event) => {
          event.preventDefault();
          const form = event.currentTarget;
          const data = new FormData(form);
          const password = String(data.get("password"));
          const different = password !== data.get("again");
          setMismatch(different);
          if (different) return;
          const current = data.get("current");
          update.mutate(
            { password, ...(current ? { currentPassword: String(current) } : {}) },
            { onSuccess: () => form.reset() },
          );
        }}
      >
        <input type="text" name="username" value={user.email} autoComplete="username" readOnly hidden />
        {user.hasPassword ? (
          <PasswordInput
            name="current"
            label="Current password"
            autoComplete="current-password"
            required
            withAsterisk={false}
          />
        ) : null}
        <PasswordInput
          name="password"
          label="New password"
          description="At least 12 characters"
          autoComplete="new-password"
          minLength={12}
          required
          withAsterisk={false}
        />
        <PasswordInput
          name="again"
          label="New password again"
          autoComplete="new-password"
          required
          withAsterisk={false}
          error={mismatch ? "The two passwords differ." : update.error ? errorText(update.error) : null}
        />
        <div>
          <Button type="submit" loading={update.isPending}>
            {user.hasPassword ? "Change password" : "Set password"}
          </Button>
        </div>
      </form>
    </section>
  );
}
