/** Parts shared by everything that is created once, shown once and revoked. */
import { Alert, Button, Group, Modal, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { type QueryKey, useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Command } from "@/shared/ui/copy";
import { errorText } from "@/shared/ui/page";

export function OnceOnly({ token, onClose }: { token: string; onClose: () => void }) {
  return (
    <Alert
      color="green"
      variant="light"
      title="Copy it now: it is not shown again"
      withCloseButton
      closeButtonLabel="Done"
      onClose={onClose}
      mb="md"
    >
      <Command text={token} />
    </Alert>
  );
}

interface RevokeProps {
  noun: string;
  name: string;
  consequence: string;
  revoke: () => Promise<unknown>;
  queryKey: QueryKey;
}

export function RevokeButton({ noun, name, consequence, revoke, queryKey }: RevokeProps) {
  const cache = useQueryClient();
  const [asking, setAsking] = useState(false);
  const mutation = useMutation({
    mutationFn: revoke,
    onSuccess: () => {
      setAsking(false);
      notifications.show({ message: `Revoked ${name}` });
      return cache.invalidateQueries({ queryKey });
    },
  });
  return (
    <>
      <Button variant="subtle" color="red" size="compact-xs" onClick={() => setAsking(true)}>
        Revoke
      </Button>
      <Modal opened={asking} onClose={() => setAsking(false)} title={`Revoke ${noun} “${name}”?`}>
        <Text size="sm">{consequence}</Text>
        {mutation.error ? (
          <Text size="sm" c="red" mt="sm" role="alert">
            {errorText(mutation.error)}
          </Text>
        ) : null}
        <Group justify="flex-end" mt="lg">
          <Button variant="default" onClick={() => setAsking(false)}>
            Keep
          </Button>
          <Button color="red" loading={mutation.isPending} onClick={() => mutation.mutate()} data-autofocus>
            Revoke
          </Button>
        </Group>
      </Modal>
    </>
  );
}
