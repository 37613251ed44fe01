/** The dashboard's icons: 16 px grid, 1.5 px strokes, decorative unless given a title. */
import type { ReactNode, SVGProps } from "react";

interface IconProps extends Omit<SVGProps<SVGSVGElement>, "children"> {
  size?: number;
  title?: string;
}

function draw(name: string, content: ReactNode) {
  function Icon({ size = 16, title, ...rest }: IconProps) {
    return (
      // biome-ignore lint/a11y/noSvgWithoutTitle: hidden from readers when it has no title
      <svg
        width={size}
        height={size}
        viewBox="0 0 16 16"
        fill="none"
        stroke="currentColor"
        strokeWidth={1.5}
        strokeLinecap="round"
        strokeLinejoin="round"
        role={title ? "img" : undefined}
        aria-hidden={title ? undefined : true}
        focusable="false"
        {...rest}
      >
        {title ? <title>{title}</title> : null}
        {content}
      </svg>
    );
  }
  Icon.displayName = name;
  return Icon;
}

export type IconComponent = ReturnType<typeof draw>;

export const RunsIcon = draw("RunsIcon", <path d="M5 3.2v9.6L13 8 5 3.2Z" />);
export const WorkflowIcon = draw(
  "WorkflowIcon",
  <>
    <rect x="2" y="2.5" width="4.5" height="4.5" rx="1.2" />
    <rect x="9.5" y="9" width="4.5" height="4.5" rx="1.2" />
    <path d="M4.25 7v2.25a2 2 0 0 0 2 2H9.5" />
  </>,
);
export const InboxIcon = draw(
  "InboxIcon",
  <>
    <path d="M2.5 9.5 4.3 3.8a1.2 1.2 0 0 1 1.1-.8h5.2a1.2 1.2 0 0 1 1.1.8l1.8 5.7v2.3a1.2 1.2 0 0 1-1.2 1.2H3.7a1.2 1.2 0 0 1-1.2-1.2Z" />
    <path d="M2.5 9.5h3l1 1.8h3l1-1.8h3" />
  </>,
);
export const PulseIcon = draw("PulseIcon", <path d="M1.5 8.5h2.8L6.2 3l3.4 10 2-4.5h2.9" />);
export const SettingsIcon = draw(
  "SettingsIcon",
  <>
    <path d="M2.5 4.5h5M11.5 4.5h2M2.5 11.5h2M8.5 11.5h5" />
    <circle cx="9.5" cy="4.5" r="1.8" />
    <circle cx="6.5" cy="11.5" r="1.8" />
  </>,
);
export const SearchIcon = draw(
  "SearchIcon",
  <>
    <circle cx="7" cy="7" r="4.2" />
    <path d="m10.2 10.2 3.3 3.3" />
  </>,
);
export const ChevronRightIcon = draw("ChevronRightIcon", <path d="m6 3.5 4.5 4.5L6 12.5" />);
export const ChevronDownIcon = draw("ChevronDownIcon", <path d="m3.5 6 4.5 4.5L12.5 6" />);
export const ChevronUpIcon = draw("ChevronUpIcon", <path d="M3.5 10 8 5.5l4.5 4.5" />);
export const ChevronsIcon = draw("ChevronsIcon", <path d="m5 6 3-3 3 3M5 10l3 3 3-3" />);
export const SortIcon = draw("SortIcon", <path d="M8 3v10m0 0 3.5-3.5M8 13 4.5 9.5" />);
export const BranchIcon = draw(
  "BranchIcon",
  <>
    <circle cx="4.5" cy="3.5" r="1.6" />
    <circle cx="4.5" cy="12.5" r="1.6" />
    <circle cx="11.5" cy="5" r="1.6" />
    <path d="M4.5 5.1v5.8M11.5 6.6c0 2.6-2.6 3-4.6 3.2-1 .1-2 .5-2.4 1.1" />
  </>,
);
export const CommitIcon = draw(
  "CommitIcon",
  <>
    <circle cx="8" cy="8" r="2.6" />
    <path d="M1.5 8h3.9M10.6 8h3.9" />
  </>,
);
export const PushIcon = draw("PushIcon", <path d="M8 13.5v-9M4.5 7.5 8 4l3.5 3.5M3 2h10" />);
export const PullRequestIcon = draw(
  "PullRequestIcon",
  <>
    <circle cx="4" cy="3.5" r="1.6" />
    <circle cx="4" cy="12.5" r="1.6" />
    <circle cx="12" cy="12.5" r="1.6" />
    <path d="M4 5.1v5.8M12 10.9V6.5a2 2 0 0 0-2-2H7.5m0 0 2-2m-2 2 2 2" />
  </>,
);
export const TagIcon = draw(
  "TagIcon",
  <>
    <path d="M2.5 3.5v4l6 6 5-5-6-6h-4a1 1 0 0 0-1 1Z" />
    <path d="M5.5 5.5h.01" />
  </>,
);
export const WebhookIcon = draw("WebhookIcon", <path d="M8.8 1.8 4.2 8.6h3.4l-.6 5.6 4.8-7H8.3Z" />);
export const ClockIcon = draw(
  "ClockIcon",
  <>
    <circle cx="8" cy="8" r="5.8" />
    <path d="M8 4.8V8l2.2 1.6" />
  </>,
);
export const HandIcon = draw(
  "HandIcon",
  <path d="M5.6 12.8 3 9.2c-.8-1.1.7-2 1.5-1l1 1.2V4c0-1.3 1.7-1.3 1.7 0V3c0-1.3 1.8-1.3 1.8 0v1c0-1.3 1.7-1.3 1.7 0v1.4c0-1.2 1.6-1.2 1.6 0v4.4c0 2-1.3 4-3.4 4-1.4 0-2.5-.2-3.3-1Z" />,
);
export const RepeatIcon = draw(
  "RepeatIcon",
  <path d="M12.9 6.2A5.2 5.2 0 0 0 3.4 5.5M3 2.8v2.9h2.9M3.1 9.8a5.2 5.2 0 0 0 9.5.7m.4 2.7v-2.9h-2.9" />,
);
export const ColumnsIcon = draw(
  "ColumnsIcon",
  <>
    <circle cx="8" cy="8" r="2" />
    <path d="M8 1.8v1.9M8 12.3v1.9M1.8 8h1.9M12.3 8h1.9M3.6 3.6 5 5M11 11l1.4 1.4M12.4 3.6 11 5M5 11l-1.4 1.4" />
  </>,
);
export const CloseIcon = draw("CloseIcon", <path d="m4 4 8 8M12 4l-8 8" />);
export const CheckIcon = draw("CheckIcon", <path d="m3.2 8.6 3.1 3.1 6.5-7" />);
export const CopyIcon = draw(
  "CopyIcon",
  <>
    <rect x="5.5" y="5.5" width="8" height="8" rx="1.6" />
    <path d="M10.5 5.5V4a1.5 1.5 0 0 0-1.5-1.5H4A1.5 1.5 0 0 0 2.5 4v5A1.5 1.5 0 0 0 4 10.5h1.5" />
  </>,
);
export const DownloadIcon = draw("DownloadIcon", <path d="M8 2.5v7.5M4.8 7 8 10.2 11.2 7M2.8 13.3h10.4" />);
export const WrapIcon = draw(
  "WrapIcon",
  <path d="M2.5 4h11M2.5 8h8.7a2.2 2.2 0 0 1 0 4.5H9m0 0 1.6-1.6M9 12.5l1.6 1.6M2.5 12.4h3.6" />,
);
export const ArrowDownIcon = draw("ArrowDownIcon", <path d="M8 2.8v9.6M4 8.6l4 4 4-4" />);
export const SunIcon = draw(
  "SunIcon",
  <>
    <circle cx="8" cy="8" r="2.8" />
    <path d="M8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M12.6 3.4l-.7.7M4.1 11.9l-.7.7" />
  </>,
);
export const MoonIcon = draw("MoonIcon", <path d="M13.4 9.6A5.8 5.8 0 0 1 6.4 2.6a5.8 5.8 0 1 0 7 7Z" />);
export const SunMoonIcon = draw(
  "SunMoonIcon",
  <>
    <circle cx="8" cy="8" r="5.8" />
    <path d="M8 2.2v11.6a5.8 5.8 0 0 0 0-11.6Z" fill="currentColor" stroke="none" />
  </>,
);
export const GlobeIcon = draw(
  "GlobeIcon",
  <>
    <circle cx="8" cy="8" r="5.8" />
    <path d="M2.2 8h11.6M8 2.2c3.4 3.6 3.4 8 0 11.6M8 2.2c-3.4 3.6-3.4 8 0 11.6" />
  </>,
);
export const UserIcon = draw(
  "UserIcon",
  <>
    <circle cx="8" cy="5.4" r="2.7" />
    <path d="M2.9 13.5c.6-2.7 2.6-4 5.1-4s4.5 1.3 5.1 4" />
  </>,
);
export const SignOutIcon = draw(
  "SignOutIcon",
  <path d="M6.5 2.5H4A1.5 1.5 0 0 0 2.5 4v8A1.5 1.5 0 0 0 4 13.5h2.5M10.5 11l3-3-3-3M13.2 8H6.5" />,
);
export const PanelIcon = draw(
  "PanelIcon",
  <>
    <rect x="2" y="2.8" width="12" height="10.4" rx="1.8" />
    <path d="M6.2 2.8v10.4" />
  </>,
);
export const InfoPanelIcon = draw(
  "InfoPanelIcon",
  <>
    <rect x="2" y="2.8" width="12" height="10.4" rx="1.8" />
    <path d="M9.8 2.8v10.4" />
  </>,
);
export const MoreIcon = draw("MoreIcon", <path d="M3.5 8h.01M8 8h.01M12.5 8h.01" strokeWidth={2.4} />);
export const KeyIcon = draw(
  "KeyIcon",
  <>
    <circle cx="5" cy="11" r="2.7" />
    <path d="m7 9 6-6M10.8 5.2l1.9 1.9" />
  </>,
);
export const LinkIcon = draw(
  "LinkIcon",
  <path d="M6.7 9.3a2.7 2.7 0 0 0 3.8 0l2.2-2.2a2.7 2.7 0 0 0-3.8-3.8l-.8.8M9.3 6.7a2.7 2.7 0 0 0-3.8 0L3.3 8.9a2.7 2.7 0 0 0 3.8 3.8l.8-.8" />,
);
export const ExternalIcon = draw(
  "ExternalIcon",
  <path d="M6.5 3.5h-2A1.5 1.5 0 0 0 3 5v6.5A1.5 1.5 0 0 0 4.5 13H11a1.5 1.5 0 0 0 1.5-1.5v-2M9 3h4v4M12.8 3.2 7.5 8.5" />,
);
export const WarningIcon = draw(
  "WarningIcon",
  <>
    <path d="M8 2.3 14.2 13H1.8Z" />
    <path d="M8 6.3v3M8 11.2h.01" />
  </>,
);
export const ServerIcon = draw(
  "ServerIcon",
  <>
    <rect x="2.2" y="2.5" width="11.6" height="4.6" rx="1.3" />
    <rect x="2.2" y="8.9" width="11.6" height="4.6" rx="1.3" />
    <path d="M5 4.8h.01M5 11.2h.01" strokeWidth={2} />
  </>,
);
export const RepoIcon = draw(
  "RepoIcon",
  <path d="M3.2 12.4V3.7a1.4 1.4 0 0 1 1.4-1.4h8.2v11.4H4.6a1.4 1.4 0 0 1 0-2.7h8.2" />,
);
export const TrashIcon = draw(
  "TrashIcon",
  <path d="M2.8 4.3h10.4M6.2 4.3V2.8h3.6v1.5M4.2 4.3l.6 9h6.4l.6-9" />,
);
export const StopIcon = draw("StopIcon", <rect x="3.8" y="3.8" width="8.4" height="8.4" rx="1.4" />);
export const GearStepIcon = draw(
  "GearStepIcon",
  <path d="M9.8 2.7a3.4 3.4 0 0 0-4 4.3l-3.4 3.4 3.2 3.2L9 10.2a3.4 3.4 0 0 0 4.3-4l-2 2-2.3-.6-.6-2.3Z" />,
);
export const FilterIcon = draw("FilterIcon", <path d="M2.5 4h11M4.8 8h6.4M6.8 12h2.4" />);
export const PlusIcon = draw("PlusIcon", <path d="M8 3v10M3 8h10" />);
export const KeyboardIcon = draw(
  "KeyboardIcon",
  <>
    <rect x="1.5" y="4" width="13" height="8.2" rx="1.6" />
    <path d="M4.2 6.8h.01M6.8 6.8h.01M9.3 6.8h.01M11.8 6.8h.01M5.2 9.6h5.6" />
  </>,
);
export const BuildingIcon = draw(
  "BuildingIcon",
  <path d="M3.5 13.5v-10a1 1 0 0 1 1-1h4a1 1 0 0 1 1 1v10M9.5 6.5h2a1 1 0 0 1 1 1v6M2 13.5h12M6.2 5.5h.6M6.2 8h.6M6.2 10.5h.6" />,
);
export const HookIcon = draw(
  "HookIcon",
  <path d="M11 2.5v7a3.2 3.2 0 0 1-6.4 0V8.2l-1.7 1.7M4.6 8.2l1.7 1.7" />,
);
export const CacheIcon = draw(
  "CacheIcon",
  <>
    <ellipse cx="8" cy="4" rx="5" ry="1.9" />
    <path d="M3 4v8c0 1 2.2 1.9 5 1.9s5-.9 5-1.9V4M3 8c0 1 2.2 1.9 5 1.9S13 9 13 8" />
  </>,
);
export const CommentIcon = draw(
  "CommentIcon",
  <path d="M2.5 4.2a1.4 1.4 0 0 1 1.4-1.4h8.2a1.4 1.4 0 0 1 1.4 1.4v5a1.4 1.4 0 0 1-1.4 1.4H7.4l-3 2.6v-2.6h-.5a1.4 1.4 0 0 1-1.4-1.4Z" />,
);
export const ReviewIcon = draw(
  "ReviewIcon",
  <>
    <path d="M1.6 8S4 3.8 8 3.8 14.4 8 14.4 8 12 12.2 8 12.2 1.6 8 1.6 8Z" />
    <circle cx="8" cy="8" r="1.9" />
  </>,
);
export const RocketIcon = draw(
  "RocketIcon",
  <path d="M6 10 4.6 8.6C5.6 5 8.4 2.6 13 2.500c0 4.6-2.3 7.5-5.6 8.900L6 10ZM6 6 3.2 6.4 2.3 8.500l2.3.1M10 10l-.4 2.8-2.1.9-.1-2.300M3.8 10.600c-1 .5-1.3 1.6-1.3 2.9 1.3 0 2.4-.3 2.9-1.3" />,
);
export const SignalIcon = draw("SignalIcon", <path d="M3 13v-2.500M6.4 13V8.200M9.7 13V5.600M13 13V3" />);
export const ForkIcon = draw(
  "ForkIcon",
  <>
    <circle cx="4.3" cy="3.6" r="1.6" />
    <circle cx="11.7" cy="3.6" r="1.6" />
    <circle cx="8" cy="12.4" r="1.6" />
    <path d="M4.3 5.200v.9a1.7 1.7 0 0 0 1.7 1.700h4a1.7 1.7 0 0 0 1.7-1.700v-.9M8 7.800v3" />
  </>,
);
export const StarIcon = draw(
  "StarIcon",
  <path d="m8 2.3 1.7 3.6 3.9.5-2.9 2.7.8 3.900L8 11.1 4.5 13l.8-3.9-2.9-2.7 3.9-.5Z" />,
);
export const BellIcon = draw(
  "BellIcon",
  <path d="M4.2 10.800V7a3.8 3.8 0 0 1 7.6 0v3.800l1.2 1.300H3ZM6.7 13.900h2.6" />,
);
export const BoltIcon = draw("BoltIcon", <path d="M9 1.8 3.5 9.200h4L7 14.200l5.5-7.400h-4Z" />);
export const ChainIcon = draw(
  "ChainIcon",
  <>
    <circle cx="3.8" cy="8" r="1.9" />
    <path d="M5.7 8h5.100M8.6 5.6 11 8l-2.4 2.4" />
    <path d="M13.6 4.500v7" />
  </>,
);
export const LifecycleIcon = draw(
  "LifecycleIcon",
  <path d="M13.3 6.500A5.5 5.5 0 0 0 3.4 5M2.7 9.500a5.5 5.5 0 0 0 9.9 1.500M3 2.300V5h2.700M13 13.700V11h-2.7" />,
);
export const CalendarIcon = draw(
  "CalendarIcon",
  <>
    <rect x="2.5" y="3.4" width="11" height="10" rx="1.6" />
    <path d="M2.5 6.700h11M5.4 2v2.600M10.6 2v2.6" />
  </>,
);
export const PlayIcon = draw("PlayIcon", <path d="M4.8 3.200v9.600L12.5 8Z" />);
export const FlaskIcon = draw(
  "FlaskIcon",
  <path d="M6.3 2.300v4L2.9 12a1.2 1.2 0 0 0 1 1.800h8.200a1.2 1.2 0 0 0 1-1.800L9.7 6.300v-4M5.3 2.300h5.400M4.6 9.700h6.8" />,
);
export const EyeCheckIcon = draw(
  "EyeCheckIcon",
  <>
    <circle cx="7" cy="7" r="4.4" />
    <path d="m10.3 10.3 3.4 3.400M5.2 7.100l1.3 1.3 2.4-2.7" />
  </>,
);
export const FoldIcon = draw(
  "FoldIcon",
  <path d="M3 8h10M5.5 2.8 8 5.300l2.5-2.500M5.5 13.2 8 10.700l2.5 2.5" />,
);
export const UnfoldIcon = draw(
  "UnfoldIcon",
  <path d="M3 8h10M5.5 4.8 8 2.300l2.5 2.500M5.5 11.2 8 13.700l2.5-2.5" />,
);
export const InfoIcon = draw(
  "InfoIcon",
  <>
    <circle cx="8" cy="8" r="6" />
    <path d="M8 7.4v3.4M8 5.2h.01" />
  </>,
);
