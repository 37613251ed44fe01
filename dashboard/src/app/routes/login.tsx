import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useRouter, useSearch } from "@tanstack/react-router";
import { LoginPage, SetupPage } from "@/features/auth/pages";

/** Only a path of our own: never a way out to somewhere else. */
function safeNext(next: string | undefined): string {
  return next?.startsWith("/") && !next.startsWith("//") ? next : "/";
}

export function LoginRoute() {
  const { next } = useSearch({ from: "/login" });
  const router = useRouter();
  const cache = useQueryClient();
  return (
    <LoginPage
      onSignedIn={() => {
        cache.clear();
        router.history.push(safeNext(next));
      }}
    />
  );
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
