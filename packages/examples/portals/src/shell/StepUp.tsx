// A policy asks for a stronger login (RFC 9470). The user goes there by a click, not by surprise, and comes back here.
import { useChallenge, usePortal, useSession } from "./context.ts";
import { Dialog } from "./Dialog.tsx";

export function StepUp() {
  const portal = usePortal();
  const challenge = useChallenge();
  const session = useSession();
  if (!challenge) return null;
  return (
    <Dialog
      title="Confirm that it is you"
      confirm="Continue to the login"
      onConfirm={() => {
        portal.auth.login({ ...challenge, ...(session ? { login_hint: session.subject } : {}) });
      }}
      onClose={() => {
        portal.setChallenge(undefined);
      }}
    >
      <p>
        This needs a second factor. You log in again, with a code of your authenticator app, and come back to this page.
      </p>
    </Dialog>
  );
}
