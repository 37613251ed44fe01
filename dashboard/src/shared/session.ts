/** Who is signed in. The session itself is a cookie that scripts cannot read. */
import { type QueryClient, queryOptions, useSuspenseQuery } from "@tanstack/react-query";
import { api, unwrap } from "@/shared/api/client";

export const userQuery = () =>
  queryOptions({
    queryKey: ["user"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/user", { signal })),
    staleTime: 60_000,
    retry: false,
  });

export type User = Awaited<ReturnType<NonNullable<ReturnType<typeof userQuery>["queryFn"]>>>;
export type Org = User["orgs"][number];

export function useUser(): User {
  return useSuspenseQuery(userQuery()).data;
}

export const authConfigQuery = () =>
  queryOptions({
    queryKey: ["auth", "config"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/auth/config", { signal })),
    staleTime: 60_000,
    retry: false,
  });

export async function signOut(cache: QueryClient): Promise<void> {
  await unwrap(api.POST("/auth/logout"));
  cache.clear();
}
