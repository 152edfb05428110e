// The session as `GET auth/session` tells it: who is logged in. Never a token.

/** Who is logged in. */
export interface Session {
  readonly subject: string;
  readonly portal: string;
  readonly tenant?: string;
  readonly roles: readonly string[];
  readonly name?: string;
  readonly email?: string;
  /** Seconds since 1970, or RFC 3339. */
  readonly expires_at?: number | string;
  readonly auth?: { readonly method?: string; readonly time?: number; readonly acr?: string; readonly amr?: string[] };
}

/** Why there is no session. */
export type Reason = "absent" | "expired" | "revoked" | "logged_out";

/**
 * - `unknown`: not asked yet, or the gate does not answer.
 * - `authenticated`: there is a session.
 * - `unauthenticated`: there is none.
 */
export type AuthState =
  | { readonly status: "unknown"; readonly session?: undefined; readonly error?: Error }
  | { readonly status: "authenticated"; readonly session: Session }
  | { readonly status: "unauthenticated"; readonly session?: undefined; readonly reason: Reason };

const texts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((item) => typeof item === "string");

/** The session in `value`; `undefined` if it is malformed or another portal's. */
export function parseSession(value: unknown, portal: string): Session | undefined {
  const session = value as Partial<Record<keyof Session, unknown>> | null;
  const isValid =
    typeof session === "object" &&
    typeof session?.subject === "string" &&
    session.portal === portal &&
    (session.roles === undefined || texts(session.roles));
  return isValid ? ({ roles: [], ...session } as Session) : undefined;
}

/** The reason behind a denial code of the gate. */
export const reasonOf = (code: unknown): Reason => {
  if (code === "session_expired" || code === "token_expired") return "expired";
  return code === "session_revoked" ? "revoked" : "absent";
};

/** True if two sessions are the same user's, in the same tenant and with the same roles. */
export const isSameUser = (a: Session, b: Session): boolean =>
  a.subject === b.subject && a.tenant === b.tenant && a.roles.join("\n") === b.roles.join("\n");
