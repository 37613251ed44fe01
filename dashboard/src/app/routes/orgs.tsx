import { Link } from "@tanstack/react-router";
import { useUser } from "@/shared/session";
import { BuildingIcon, ChevronRightIcon } from "@/shared/ui/icons";
import { Empty, Page } from "@/shared/ui/page";
import { Chip } from "@/shared/ui/status";
import classes from "../shell.module.css";

export function OrgsRoute() {
  const { orgs } = useUser();
  return (
    <Page name="orgs" title="Organizations" narrow>
      {orgs.length === 0 ? (
        <Empty icon={BuildingIcon} title="No organization">
          You are signed in, but belong to no organization yet. Ask an owner to add you.
        </Empty>
      ) : (
        <ul className={classes.orgList}>
          {orgs
            .toSorted((a, b) => a.name.localeCompare(b.name))
            .map((org) => (
              <li key={org.id}>
                <Link to="/orgs/$orgId/runs" params={{ orgId: org.id }} className={classes.orgRow}>
                  <span className={classes.orgMark} aria-hidden="true">
                    {org.name.slice(0, 1).toUpperCase()}
                  </span>
                  <strong>{org.name}</strong>
                  <span className="dim">{org.alias}</span>
                  <Chip>{org.role}</Chip>
                  <ChevronRightIcon size={14} />
                </Link>
              </li>
            ))}
        </ul>
      )}
    </Page>
  );
}
