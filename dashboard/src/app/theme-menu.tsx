import { ActionIcon, Menu, Tooltip, useMantineColorScheme } from "@mantine/core";
import { CheckIcon, MoonIcon, SunIcon, SunMoonIcon } from "@/shared/ui/icons";

const CHOICES = [
  { value: "auto", label: "System", icon: SunMoonIcon },
  { value: "dark", label: "Dark", icon: MoonIcon },
  { value: "light", label: "Light", icon: SunIcon },
] as const;

export function ThemeMenu() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  return (
    <Menu position="top-start" width={150}>
      <Menu.Target>
        <Tooltip label="Theme">
          <ActionIcon aria-label="Theme">
            <SunMoonIcon />
          </ActionIcon>
        </Tooltip>
      </Menu.Target>
      <Menu.Dropdown>
        {CHOICES.map(({ value, label, icon: Icon }) => (
          <Menu.Item
            key={value}
            leftSection={<Icon size={14} />}
            rightSection={colorScheme === value ? <CheckIcon size={14} /> : null}
            onClick={() => setColorScheme(value)}
          >
            {label}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}
