/** Starts a registered workflow by hand, with the inputs that its trigger asks for. */
import {
  Button,
  Checkbox,
  Group,
  Modal,
  NumberInput,
  Select,
  Text,
  TextInput,
  Tooltip,
} from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useMemo, useState } from "react";
import { ApiError, api, unwrap } from "@/shared/api/client";
import type { RegistrationView } from "@/shared/api/types";
import { shortSha } from "@/shared/format";
import { PlayIcon } from "@/shared/ui/icons";
import { errorText, TraceId } from "@/shared/ui/page";
import {
  type FormValue,
  type FormValues,
  hint,
  type InputField,
  initialValues,
  inputFields,
  problem,
  problemsByField,
  toInputs,
} from "./inputs";

/** Why it cannot be started, or null. */
function hindrance(registration: RegistrationView): string | null {
  if (registration.disabled)
    return "The workflow is disabled. An operator enables it with kici-admin registrations enable.";
  if (!registration.source.name) return "Its source was removed, so there is nothing to clone.";
  return null;
}

function inWords(error: unknown): string {
  if (!(error instanceof ApiError)) return errorText(error);
  if (error.code === "rate_limited")
    return `You have started many runs within a minute.${error.retryAfterS ? ` Try again in ${error.retryAfterS} s.` : " Wait a moment, then try again."}`;
  if (error.code === "forbidden") return "You may not start workflows in this organization.";
  if (error.orchestratorAway) return "The orchestrator is offline. Try again as soon as it is back.";
  return `${error.message.replace(/^./, (letter) => letter.toUpperCase())}.`;
}

export function RunNow({ orgId, registration }: { orgId: string; registration: RegistrationView }) {
  const [opened, setOpened] = useState(false);
  const reason = hindrance(registration);
  const button = (
    <Button
      variant="default"
      size="compact-xs"
      leftSection={<PlayIcon size={11} />}
      data-disabled={reason ? true : undefined}
      aria-disabled={reason ? true : undefined}
      aria-label={`Run now: ${registration.workflowName}`}
      onClick={(event) => {
        event.stopPropagation();
        if (!reason) setOpened(true);
      }}
    >
      Run now
    </Button>
  );
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: keeps clicks in the dialog from opening the row
    // biome-ignore lint/a11y/useKeyWithClickEvents: as above
    <span onClick={(event) => event.stopPropagation()}>
      {reason ? <Tooltip label={reason}>{button}</Tooltip> : button}
      <Modal
        opened={opened}
        onClose={() => setOpened(false)}
        title={`Run ${registration.workflowName} now`}
      >
        <RunForm orgId={orgId} registration={registration} onClose={() => setOpened(false)} />
      </Modal>
    </span>
  );
}

interface FormProps {
  orgId: string;
  registration: RegistrationView;
  onClose: () => void;
}

function RunForm({ orgId, registration, onClose }: FormProps) {
  const fields = useMemo(() => inputFields(registration), [registration]);
  const [values, setValues] = useState<FormValues>(() => initialValues(fields));
  const [tried, setTried] = useState(false);
  const navigate = useNavigate();
  const cache = useQueryClient();
  const start = useMutation({
    mutationFn: () =>
      unwrap(
        api.POST("/api/v1/orgs/{orgId}/registrations/{registrationId}/run", {
          params: { path: { orgId, registrationId: registration.id } },
          body: { inputs: toInputs(fields, values) },
        }),
      ),
    onSuccess: ({ newRunId }) => {
      onClose();
      void cache.invalidateQueries({ queryKey: ["org", orgId, "registrations"] });
      void navigate({ to: "/orgs/$orgId/runs/$runId", params: { orgId, runId: newRunId } });
    },
  });
  const refused =
    start.error instanceof ApiError && start.error.code === "invalid_inputs"
      ? problemsByField(start.error.message, fields)
      : new Map<string, string>();
  const problems = new Map(
    fields.flatMap((field) => {
      const found = problem(field, values[field.name] ?? "");
      return found && (tried || values[field.name] !== "") ? [[field.name, found] as const] : [];
    }),
  );
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setTried(true);
    if (fields.every((field) => problem(field, values[field.name] ?? "") === null)) start.mutate();
  };
  return (
    <form onSubmit={submit} noValidate data-testid="run-now">
      <Text size="sm" c="dimmed">
        On commit <code>{shortSha(registration.commitSha)}</code> of {registration.repoIdentifier}
        {fields.length === 0 ? ". This workflow takes no inputs." : ""}
      </Text>
      {fields.map((field) => (
        <FieldInput
          key={field.name}
          field={field}
          value={values[field.name] ?? ""}
          error={problems.get(field.name) ?? refused.get(field.name) ?? null}
          onChange={(value) => {
            setValues({ ...values, [field.name]: value });
            if (start.error) start.reset();
          }}
        />
      ))}
      {start.error && refused.size === 0 ? (
        <Text size="sm" c="var(--tone-failed)" mt="md" role="alert">
          {inWords(start.error)}
          {start.error instanceof ApiError && start.error.traceId ? (
            <TraceId id={start.error.traceId} />
          ) : null}
        </Text>
      ) : null}
      <Group justify="flex-end" mt="lg">
        <Button variant="default" onClick={onClose}>
          Cancel
        </Button>
        <Button type="submit" loading={start.isPending} data-autofocus={fields.length === 0 || undefined}>
          Run now
        </Button>
      </Group>
    </form>
  );
}

interface FieldProps {
  field: InputField;
  value: FormValue;
  error: string | null;
  onChange: (value: FormValue) => void;
}

function FieldInput({ field, value, error, onChange }: FieldProps) {
  const common = {
    label: field.name,
    description: hint(field) || undefined,
    error: error ?? undefined,
    mt: "sm",
    size: "sm",
  } as const;
  if (field.choices.length > 0) {
    return (
      <Select
        {...common}
        required={field.required}
        withAsterisk={field.required}
        data={field.choices.map(String)}
        value={value === "" ? null : String(value)}
        placeholder={field.required ? "Choose one" : "None"}
        clearable={!field.required && field.default === null}
        allowDeselect={false}
        onChange={(next) => onChange(next ?? "")}
      />
    );
  }
  if (field.type === "boolean") {
    return (
      <Checkbox
        label={field.name}
        description={hint(field) || undefined}
        error={error ?? undefined}
        mt="md"
        size="xs"
        checked={value === true}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
    );
  }
  if (field.type === "integer" || field.type === "number") {
    return (
      <NumberInput
        {...common}
        required={field.required}
        withAsterisk={field.required}
        allowDecimal={field.type === "number"}
        {...(field.ge === null ? {} : { min: field.ge })}
        {...(field.le === null ? {} : { max: field.le })}
        clampBehavior="none"
        value={typeof value === "string" ? value : ""}
        onChange={(next) => onChange(String(next))}
      />
    );
  }
  return (
    <TextInput
      {...common}
      required={field.required}
      withAsterisk={field.required}
      value={String(value)}
      autoComplete="off"
      spellCheck={false}
      onChange={(event) => onChange(event.currentTarget.value)}
    />
  );
}
