/** The frame around every page: sidebar or bottom bar, banners, palette, shortcuts. */
import { ActionIcon, Menu, Modal, Popover, TextInput, Tooltip, UnstyledButton } from "@mantine/core";
import { useMediaQuery } from "@mantine/hooks";
import { useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useParams } from "@tanstack/react-router";
import { type ReactNode, useEffect, useState } from "react";
import { useLive, useLiveState } from "@/shared/live/context";
import { useChoice, useZone } from "@/shared/preferences";
import { type Org, signOut, useUser } from "@/shared/session";
import {
  CheckIcon,
  ChevronsIcon,
  GlobeIcon,
  KeyboardIcon,
  MoreIcon,
  PanelIcon,
  SearchIcon,
  SignOutIcon,
  UserIcon,
} from "@/shared/ui/icons";
import { Logo } from "@/shared/ui/logo";
import { Banners } from "./banners";
import { NAV, type NavItem } from "./nav";
import { openPalette, Palette } from "./palette";
import { lastOrg } from "./router";
import classes from "./shell.module.css";
import { ShortcutHelp, useShortcuts } from "./shortcuts";
import { ThemeMenu } from "./theme-menu";

export function Shell() {
  const user = useUser();
  const params = useParams({ strict: false });
  const orgId = params.orgId ?? lastOrg(user.orgs) ?? null;
  const org = user.orgs.find((each) => each.id === orgId) ?? null;
  const mobile = useMediaQuery("(max-width: 767px)", false, { getInitialValueInEffect: false });
  const [help, setHelp] = useState(false);
  const socket = useLive();
  useEffect(() => {
    if (orgId) socket.watchOrg(orgId);
  }, [socket, orgId]);
  useShortcuts({ orgId, onHelp: () => setHelp(true) });
  useSignedOutSocket();
  return (
    <div className={classes.shell} data-mobile={mobile || undefined}>
      <a className={classes.skip} href="#content">
        Skip to content
      </a>
      {mobile ? null : <Sidebar org={org} onHelp={() => setHelp(true)} />}
      <div className={classes.main}>
        <Banners orgId={orgId} />
        <main id="content" className={classes.scroll} tabIndex={-1}>
          <Outlet />
        </main>
      </div>
      {mobile ? <BottomBar org={org} /> : null}
      <Palette orgId={orgId} onHelp={() => setHelp(true)} />
      <Modal opened={help} onClose={() => setHelp(false)} title="Keyboard shortcuts">
        <ShortcutHelp />
      </Modal>
      <div id="announcements" className={classes.announcements} aria-live="polite" />
    </div>
  );
}

function useSignedOutSocket() {
  const state = useLiveState();
  const cache = useQueryClient();
  useEffect(() => {
    // The next request answers 401 and leads to the sign-in page.
    if (state === "signed-out") void cache.invalidateQueries();
  }, [state, cache]);
}

function Sidebar({ org, onHelp }: { org: Org | null; onHelp: () => void }) {
  const narrow = useMediaQuery("(max-width: 1199px)", false, { getInitialValueInEffect: false });
  const [choice, setChoice] = useChoice("kici:sidebar", ["open", "collapsed", "auto"] as const, "auto");
  const collapsed = choice === "auto" ? narrow : choice === "collapsed";
  return (
    <nav className={classes.sidebar} data-collapsed={collapsed || undefined} aria-label="Main">
      <OrgSwitcher org={org} collapsed={collapsed} />
      <UnstyledButton
        className={classes.quick}
        onClick={openPalette}
        aria-label={collapsed ? "Search" : undefined}
      >
        <SearchIcon size={14} />
        {collapsed ? null : (
          <>
            <span>Search</span>
            <kbd>Ctrl K</kbd>
          </>
        )}
      </UnstyledButton>
      <ul className={classes.nav}>
        {org
          ? NAV.map((item) => (
              <li key={item.id}>
                <NavLink item={item} orgId={org.id} iconOnly={collapsed} className={classes.navItem} />
              </li>
            ))
          : null}
      </ul>
      <footer className={classes.footer}>
        <div className={classes.footerTools}>
          <LiveDot />
          <ZoneToggle />
          <ThemeMenu />
          <Tooltip label="Keyboard shortcuts (?)">
            <ActionIcon aria-label="Keyboard shortcuts" onClick={onHelp}>
              <KeyboardIcon />
            </ActionIcon>
          </Tooltip>
          <Tooltip label={collapsed ? "Expand sidebar" : "Collapse sidebar"}>
            <ActionIcon
              aria-label={collapsed ? "Expand sidebar" : "Collapse sidebar"}
              onClick={() => setChoice(collapsed ? "open" : "collapsed")}
            >
              <PanelIcon />
            </ActionIcon>
          </Tooltip>
        </div>
        <UserMenu collapsed={collapsed} />
      </footer>
    </nav>
  );
}

interface NavLinkProps {
  item: NavItem;
  orgId: string;
  iconOnly?: boolean;
  className: string | undefined;
}

function NavLink({ item, orgId, iconOnly, className }: NavLinkProps) {
  const Icon = item.icon;
  const link = (
    <Link
      {...item.link(orgId)}
      className={className}
      activeOptions={{ exact: false, includeSearch: false }}
      activeProps={{ "data-active": true, "aria-current": "page" }}
      aria-label={iconOnly ? item.label : undefined}
    >
      <Icon />
      {iconOnly ? null : <span>{item.label}</span>}
    </Link>
  );
  return iconOnly ? (
    <Tooltip label={item.label} position="right">
      {link}
    </Tooltip>
  ) : (
    link
  );
}

function OrgSwitcher({ org, collapsed }: { org: Org | null; collapsed: boolean }) {
  const { orgs } = useUser();
  const navigate = useNavigate();
  const [opened, setOpened] = useState(false);
  const [query, setQuery] = useState("");
  const shown = orgs
    .filter((each) => each.name.toLowerCase().includes(query.trim().toLowerCase()))
    .sort((a, b) => a.name.localeCompare(b.name));
  return (
    <Popover opened={opened} onChange={setOpened} width={240} position="bottom-start" shadow="md" trapFocus>
      <Popover.Target>
        <UnstyledButton
          className={classes.org}
          onClick={() => setOpened(!opened)}
          aria-label={collapsed ? `Organization: ${org?.name ?? "none"}` : undefined}
        >
          {org ? (
            <span className={classes.orgMark} aria-hidden="true">
              {org.name.slice(0, 1).toUpperCase()}
            </span>
          ) : (
            <Logo size={24} />
          )}
          {collapsed ? null : (
            <>
              <span className={classes.orgName}>{org?.name ?? "KiCI"}</span>
              <ChevronsIcon size={14} />
            </>
          )}
        </UnstyledButton>
      </Popover.Target>
      <Popover.Dropdown p={6}>
        <TextInput
          size="xs"
          placeholder="Find organization"
          aria-label="Find organization"
          value={query}
          onChange={(event) => setQuery(event.currentTarget.value)}
          data-autofocus
        />
        <ul className={classes.orgMenu}>
          {shown.map((each) => (
            <li key={each.id}>
              <UnstyledButton
                className={classes.orgOption}
                onClick={() => {
                  setOpened(false);
                  void navigate({ to: "/orgs/$orgId/runs", params: { orgId: each.id } });
                }}
              >
                <span className={classes.orgMark} aria-hidden="true">
                  {each.name.slice(0, 1).toUpperCase()}
                </span>
                <span className={classes.orgName}>{each.name}</span>
                {each.id === org?.id ? <CheckIcon size={14} /> : null}
              </UnstyledButton>
            </li>
          ))}
        </ul>
      </Popover.Dropdown>
    </Popover>
  );
}

function LiveDot() {
  const state = useLiveState();
  const connected = state === "open";
  const label = connected
    ? "Connected: live updates"
    : state === "connecting"
      ? "Connecting…"
      : "Disconnected: trying to reconnect";
  return (
    <Tooltip label={label}>
      <span
        className={classes.dotHit}
        role="status"
        aria-label={label}
        data-testid="live-dot"
        data-state={state}
      >
        <span className={classes.dot} data-connected={connected || undefined} />
      </span>
    </Tooltip>
  );
}

function ZoneToggle() {
  const [zone, setZone] = useZone();
  const next = zone === "utc" ? "local" : "utc";
  return (
    <Tooltip label={zone === "utc" ? "Times in UTC" : "Times in local time"}>
      <ActionIcon
        aria-label={`Show times in ${next === "utc" ? "UTC" : "local time"}`}
        aria-pressed={zone === "utc"}
        data-on={zone === "utc" || undefined}
        className={classes.toggle}
        onClick={() => setZone(next)}
      >
        <GlobeIcon />
      </ActionIcon>
    </Tooltip>
  );
}

function UserMenuItems({ children }: { children?: ReactNode }) {
  const cache = useQueryClient();
  const navigate = useNavigate();
  const socket = useLive();
  return (
    <>
      {children}
      <Menu.Item leftSection={<UserIcon size={14} />} component={Link} to="/account">
        Account
      </Menu.Item>
      <Menu.Item
        leftSection={<SignOutIcon size={14} />}
        onClick={() => {
          void signOut(cache).finally(() => {
            socket.disconnect();
            void navigate({ to: "/login" });
          });
        }}
      >
        Sign out
      </Menu.Item>
    </>
  );
}

function UserMenu({ collapsed }: { collapsed: boolean }) {
  const user = useUser();
  const name = user.displayName || user.email;
  return (
    <Menu position="top-start" width={220}>
      <Menu.Target>
        <UnstyledButton className={classes.user} aria-label={collapsed ? `User menu: ${name}` : undefined}>
          <span className={classes.avatar} aria-hidden="true">
            {name.slice(0, 1).toUpperCase()}
          </span>
          {collapsed ? null : <span className={classes.orgName}>{name}</span>}
        </UnstyledButton>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>{user.email}</Menu.Label>
        <UserMenuItems />
      </Menu.Dropdown>
    </Menu>
  );
}

function BottomBar({ org }: { org: Org | null }) {
  const user = useUser();
  const navigate = useNavigate();
  if (!org) return null;
  return (
    <nav className={classes.bottom} aria-label="Main">
      {NAV.filter((item) => item.mobile).map((item) => (
        <NavLink key={item.id} item={item} orgId={org.id} className={classes.bottomItem} />
      ))}
      <Menu position="top-end" width={240}>
        <Menu.Target>
          <UnstyledButton className={classes.bottomItem} aria-label="More">
            <MoreIcon />
            <span>More</span>
          </UnstyledButton>
        </Menu.Target>
        <Menu.Dropdown>
          <Menu.Label>{user.email}</Menu.Label>
          <UserMenuItems>
            {NAV.filter((item) => !item.mobile).map((item) => (
              <Menu.Item
                key={item.id}
                leftSection={<item.icon size={14} />}
                onClick={() => void navigate(item.link(org.id))}
              >
                {item.label}
              </Menu.Item>
            ))}
          </UserMenuItems>
          <Menu.Divider />
          <div className={classes.moreTools}>
            <LiveDot />
            <ZoneToggle />
            <ThemeMenu />
          </div>
        </Menu.Dropdown>
      </Menu>
    </nav>
  );
}
