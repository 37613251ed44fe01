import { Button } from "@mantine/core";
import type { ErrorComponentProps } from "@tanstack/react-router";
import { ApiError } from "@/shared/api/client";
import { SearchIcon, WarningIcon } from "@/shared/ui/icons";
import { LinkButton } from "@/shared/ui/link-button";
import { Empty, ErrorPanel, errorText, useTitle } from "@/shared/ui/page";

export function NotFound() {
  useTitle("Page not found");
  return (
    <div data-testid="page-not-found">
      <Empty
        icon={SearchIcon}
        title="Page not found"
        action={
          <LinkButton to="/orgs" variant="default" mt={8}>
            Go home
          </LinkButton>
        }
      >
        There is nothing at this address.
      </Empty>
    </div>
  );
}

/** What a page shows when it could not be drawn; the rest of the window stays. */
export function Crash({ error, reset }: ErrorComponentProps) {
  useTitle("Something went wrong");
  if (error instanceof ApiError) return <ErrorPanel error={error} retry={reset} />;
  return (
    <Empty
      icon={WarningIcon}
      title="Something went wrong"
      action={
        <Button onClick={() => location.reload()} mt={8}>
          Reload page
        </Button>
      }
    >
      {errorText(error)}
    </Empty>
  );
}
