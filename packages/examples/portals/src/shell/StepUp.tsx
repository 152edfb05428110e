// A policy asks for a stronger login (RFC 9470). The user goes there by a click, not by surprise, and comes back here.
import { useChallenge, usePortal } from "./context.ts";
import { Dialog } from "./Dialog.tsx";

export function StepUp() {
  const portal = usePortal();
  const challenge = useChallenge();
  if (!challenge) return null;
  return (
    <Dialog
      title="Confirm that it is you"
      confirm="Continue to sign-in"
      onConfirm={() => {
        portal.auth.login(challenge);
      }}
      onClose={() => {
        portal.setChallenge(undefined);
      }}
    >
      <p>This needs a second factor. You sign in again and come back to this page.</p>
    </Dialog>
  );
}
