import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { LoginPage, SetupPage } from "@/features/auth/pages";
import { basePath } from "@/shared/base-path";

/** Only a path of our own: never a way out to somewhere else. */
function safeNext(next: string | undefined): string {
  const home = `${basePath}/`;
  if (!next?.startsWith(home) || next.startsWith("//")) return home;
  return new URL(next, location.origin).origin === location.origin ? next : home;
}

export function LoginRoute() {
  const { next } = useSearch({ from: "/login" });
  // A new page: nothing of who was signed in before is left in memory.
  return <LoginPage onSignedIn={() => location.assign(safeNext(next))} />;
}

export function SetupRoute() {
  const { token } = useSearch({ from: "/setup" });
  const navigate = useNavigate();
  const cache = useQueryClient();
  return (
    <SetupPage
      token={token ?? ""}
      onDone={() => {
        cache.clear();
        void navigate({ to: "/" });
      }}
    />
  );
}
