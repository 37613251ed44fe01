import { Button, PasswordInput, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { ApiError, api, unwrap } from "@/shared/api/client";
import { Logo } from "@/shared/ui/logo";
import { errorText, useTitle } from "@/shared/ui/page";
import classes from "./auth.module.css";

interface CardProps {
  name: string;
  title: string;
  intro: ReactNode;
  children: ReactNode;
}

function AuthCard({ name, title, intro, children }: CardProps) {
  useTitle(title);
  return (
    <main className={classes.page} data-testid={`page-${name}`}>
      <div className={classes.card}>
        <Logo size={36} />
        <h1 className={classes.title}>{title}</h1>
        <p className={classes.intro}>{intro}</p>
        {children}
      </div>
    </main>
  );
}

function fields(event: FormEvent<HTMLFormElement>): (name: string) => string {
  event.preventDefault();
  const data = new FormData(event.currentTarget);
  return (name) => String(data.get(name) ?? "");
}

/** Seconds left until another try is allowed. */
function useCountdown(error: unknown): number {
  const seconds = error instanceof ApiError && error.status === 429 ? (error.retryAfterS ?? 60) : 0;
  const [left, setLeft] = useState(0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: each failure starts a new countdown
  useEffect(() => {
    setLeft(seconds);
    if (seconds === 0) return;
    const timer = setInterval(() => setLeft((now) => Math.max(0, now - 1)), 1000);
    return () => clearInterval(timer);
  }, [seconds, error]);
  return left;
}

export function LoginPage({ onSignedIn }: { onSignedIn: () => void }) {
  const login = useMutation({
    mutationFn: (body: { email: string; password: string }) => unwrap(api.POST("/auth/login", { body })),
    onSuccess: onSignedIn,
  });
  const wait = useCountdown(login.error);
  const error = login.error
    ? wait > 0
      ? `Too many attempts. Try again in ${wait} s.`
      : login.error instanceof ApiError && login.error.status === 401
        ? "E-mail or password is wrong."
        : errorText(login.error)
    : null;
  return (
    <AuthCard name="login" title="Sign in to KiCI" intro="Watch your runs, live.">
      <form
        className={classes.form}
        onSubmit={(event) => {
          const field = fields(event);
          login.mutate({ email: field("email").trim(), password: field("password") });
        }}
      >
        <TextInput
          name="email"
          type="email"
          label="E-mail"
          autoComplete="username"
          required
          withAsterisk={false}
          autoFocus
        />
        <PasswordInput
          name="password"
          label="Password"
          autoComplete="current-password"
          required
          withAsterisk={false}
          error={error}
        />
        <Button type="submit" size="sm" fullWidth loading={login.isPending} disabled={wait > 0}>
          Sign in
        </Button>
      </form>
      <p className={classes.hint}>
        On the machine that runs KiCI, <code>kici status</code> prints a one-time sign-in link.
      </p>
    </AuthCard>
  );
}

export function SetupPage({ token, onDone }: { token: string; onDone: () => void }) {
  const [mismatch, setMismatch] = useState(false);
  const setup = useMutation({
    mutationFn: (body: { token: string; email: string; password: string; displayName: string }) =>
      unwrap(api.POST("/auth/setup", { body })),
    onSuccess: onDone,
  });
  return (
    <AuthCard
      name="setup"
      title="Welcome to KiCI"
      intro="Create the first account. It owns this installation."
    >
      <form
        className={classes.form}
        onSubmit={(event) => {
          const field = fields(event);
          const password = field("password");
          const different = password !== field("again");
          setMismatch(different);
          if (different) return;
          setup.mutate({
            token: token || field("token").trim(),
            email: field("email").trim(),
            displayName: field("name").trim(),
            password,
          });
        }}
      >
        {token ? null : (
          <TextInput
            name="token"
            label="Setup token"
            description="Printed once when the platform first started"
            required
            withAsterisk={false}
          />
        )}
        <TextInput name="name" label="Name" autoComplete="name" required withAsterisk={false} autoFocus />
        <TextInput
          name="email"
          type="email"
          label="E-mail"
          autoComplete="username"
          required
          withAsterisk={false}
        />
        <PasswordInput
          name="password"
          label="Password"
          description="At least 12 characters"
          autoComplete="new-password"
          minLength={12}
          required
          withAsterisk={false}
        />
        <PasswordInput
          name="again"
          label="Password again"
          autoComplete="new-password"
          required
          withAsterisk={false}
          error={mismatch ? "The two passwords differ." : setup.error ? setupError(setup.error) : null}
        />
        <Button type="submit" size="sm" fullWidth loading={setup.isPending}>
          Create account
        </Button>
      </form>
    </AuthCard>
  );
}

function setupError(error: unknown): string {
  if (error instanceof ApiError && error.status === 404) {
    return "This link is used up or has expired. Sign in instead, or ask for a new one.";
  }
  return errorText(error);
}
